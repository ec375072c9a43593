"""What a create request may not combine with the network, the PIDs or the IPC of another container."""

import pytest

from appliance.api.sharing_checks import check_sharing
from appliance.container.config import ContainerConfig, Empty
from appliance.container.host_config import HostConfig, PortBinding
from appliance.errors import InvalidParameter

_JOINER = "container:web"


def test_a_joiner_without_contradictions() -> None:
    host_config = HostConfig(network_mode=_JOINER, pid_mode=_JOINER, ipc_mode=_JOINER)
    check_sharing(ContainerConfig(labels={"vch.machine": "one", "vch.machine-memory": "1g"}), host_config, [])


def test_what_a_network_of_its_own_allows_stays_allowed() -> None:
    config = ContainerConfig(hostname="h", exposed_ports={"80/tcp": Empty()}, mac_address="02:00:00:00:00:01")
    check_sharing(config, HostConfig(pid_mode=_JOINER, dns=["1.1.1.1"], publish_all_ports=True), ["front"])


@pytest.mark.parametrize(
    ("config", "host_config", "text"),
    [
        (ContainerConfig(hostname="h"), {}, "conflicting options: hostname and the network mode"),
        (
            ContainerConfig(),
            {"links": ["a:b"]},
            "conflicting options: container type network can't be used with links. This would result in undefined behavior",
        ),
        (ContainerConfig(), {"dns": ["1.1.1.1"]}, "conflicting options: dns and the network mode"),
        (
            ContainerConfig(),
            {"extra_hosts": ["a:1.2.3.4"]},
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            ContainerConfig(),
            {"port_bindings": {"80/tcp": [PortBinding()]}},
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            ContainerConfig(),
            {"publish_all_ports": True},
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            ContainerConfig(exposed_ports={"80/tcp": Empty()}),
            {},
            "conflicting options: port exposing and the container type network mode",
        ),
        (
            ContainerConfig(mac_address="02:00:00:00:00:01"),
            {},
            "conflicting options: mac-address and the network mode",
        ),
    ],
)
def test_a_shared_network_excludes_settings_of_an_own_one(
    config: ContainerConfig, host_config: dict[str, object], text: str
) -> None:
    joiner = HostConfig(network_mode=_JOINER, **host_config)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter) as caught:
        check_sharing(config, joiner, [])
    assert str(caught.value) == text
    check_sharing(config, HostConfig(network_mode="front", **host_config), [])  # type: ignore[arg-type]


def test_a_shared_network_is_the_only_one() -> None:
    with pytest.raises(InvalidParameter, match=r"^container sharing network namespace with another container or host"):
        check_sharing(ContainerConfig(), HostConfig(network_mode=_JOINER), ["front"])


@pytest.mark.parametrize(
    ("host_config", "text"),
    [
        (
            HostConfig(network_mode="container:"),
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (HostConfig(network_mode="container"), "invalid network mode: invalid container format container:<name|id>"),
    ],
)
def test_a_mode_without_a_container(host_config: HostConfig, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_sharing(ContainerConfig(), host_config, [])
    assert str(caught.value) == text


def test_the_hosts_names_exclude_an_own_one() -> None:
    with pytest.raises(InvalidParameter, match=r"^conflicting options: hostname and the UTS mode$"):
        check_sharing(ContainerConfig(hostname="h"), HostConfig(uts_mode="host"), [])
    check_sharing(ContainerConfig(), HostConfig(uts_mode="host"), [])


@pytest.mark.parametrize("labels", [{"vch.machine": "a b"}, {"vch.machine-memory": "much"}])
def test_labels_that_mean_nothing_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid label vch\.machine"):
        check_sharing(ContainerConfig(labels=labels), HostConfig(), [])
