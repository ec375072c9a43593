"""The daemon's own objects: the reserved label, and who asks for them."""

import pytest

from appliance.container.daemon_objects import asks_for_daemon_objects, check_not_reserved
from appliance.errors import InvalidParameter


def test_the_label_is_reserved() -> None:
    check_not_reserved({"vch.roles": "", "role": "builder"})
    with pytest.raises(InvalidParameter, match=r"^label vch\.role is reserved$"):
        check_not_reserved({"a": "", "vch.role": "anything"})


def test_who_asks_for_objects_of_the_daemon() -> None:
    assert asks_for_daemon_objects(["a", "vch.role=builder"])
    assert asks_for_daemon_objects(["vch.role"])
    assert not asks_for_daemon_objects(["a=vch.role", "vch.roles=builder"])
