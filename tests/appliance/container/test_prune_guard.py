"""One prune at a time."""

import pytest

from appliance.container.prune_guard import PruneGuard
from appliance.errors import Conflict


def test_one_at_a_time() -> None:
    guard = PruneGuard()
    with guard.running():
        with pytest.raises(Conflict, match=r"^a prune operation is already running$"), guard.running():
            pass
        # The refused prune has not ended the other one.
        with pytest.raises(Conflict), guard.running():
            pass
    with pytest.raises(KeyError), guard.running():
        raise KeyError
    with guard.running():
        pass
