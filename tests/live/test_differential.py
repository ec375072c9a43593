"""The same raw requests to vchd and to a real dockerd (API 1.41): status, headers and the shape of the answers agree.

Where they do not, `DIFFERENT` says why.
"""

import json

import pytest

from tests.live.differential.answers import answer
from tests.live.differential.container_asks import CONTAINERS
from tests.live.differential.other_asks import OTHERS
from tests.live.differential.reasons import DIFFERENT

pytestmark = pytest.mark.live


def test_vchd_answers_as_dockerd_does(sockets: tuple[str, str]) -> None:
    differing = {}
    for ask in (*CONTAINERS, *OTHERS):
        ours, theirs = (answer(path, ask) for path in sockets)
        for one in (ours, theirs):
            one.pop("message", None)
        if ours != theirs:
            differing[ask.name] = {"ours": ours, "theirs": theirs}
    unexpected = {name: found for name, found in differing.items() if name not in DIFFERENT}
    assert not unexpected, json.dumps(unexpected, indent=1, default=str)
    assert not DIFFERENT.keys() - differing.keys(), "these agree by now"
