"""The capabilities of a container, as moby's oci/caps computes them."""

import pytest

from appliance.container.capabilities import capabilities
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter

DEFAULT = capabilities(HostConfig())
ALL = capabilities(HostConfig(privileged=True))


def test_the_defaults_of_docker() -> None:
    assert len(DEFAULT) == 14
    assert {"CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"} < set(DEFAULT)
    assert {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_MODULE"}.isdisjoint(DEFAULT)
    assert len(ALL) == len(set(ALL)) == 41
    assert set(DEFAULT) < set(ALL)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (None, ["ALL"], []),
        (["net_admin"], ["all"], ["CAP_NET_ADMIN"]),
        (["CAP_NET_ADMIN"], None, [*DEFAULT, "CAP_NET_ADMIN"]),
        (["CHOWN"], None, DEFAULT),
        (None, ["CAP_CHOWN"], [name for name in DEFAULT if name != "CAP_CHOWN"]),
        (["NET_ADMIN"], ["NET_ADMIN"], DEFAULT),
        (["ALL"], None, ALL),
        (["ALL"], ["CHOWN"], [name for name in ALL if name != "CAP_CHOWN"]),
        (["ALL"], ["ALL"], ALL),
        ([], [], DEFAULT),
    ],
)
def test_add_and_drop(add: list[str] | None, drop: list[str] | None, expected: list[str]) -> None:
    assert sorted(capabilities(HostConfig(cap_add=add, cap_drop=drop))) == sorted(expected)


def test_privileged_drops_nothing() -> None:
    assert capabilities(HostConfig(privileged=True, cap_drop=["ALL"])) == ALL


@pytest.mark.parametrize("host_config", [HostConfig(cap_add=["FLY"]), HostConfig(cap_drop=["cap_fly"])])
def test_a_capability_that_does_not_exist(host_config: HostConfig) -> None:
    with pytest.raises(InvalidParameter) as caught:
        capabilities(host_config)
    assert str(caught.value) == 'invalid capability: "CAP_FLY"'
