"""Devices of the host in a create request: which forms name a PCI device, and Docker's words for the rest."""

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.devices import pci_devices, unserved_request
from appliance.container.host_config import DeviceMapping, DeviceRequest, HostConfig
from appliance.container.spec import build_spec
from appliance.errors import InvalidParameter
from tests.steps import cpu_of_steps


def _cdi(*names: str) -> HostConfig:
    return HostConfig(device_requests=[DeviceRequest("cdi", device_ids=list(names))])


@pytest.mark.parametrize(
    "host_config",
    [
        _cdi("vfio/pci=0000:01:00.0"),
        _cdi("vfio/pci=01:00.0", "vfio/pci=0000:01:00.0"),
        HostConfig(devices=[DeviceMapping("vfio=0000:01:00.0")]),
        HostConfig(devices=[DeviceMapping("vfio=0000:01:00.0", "vfio=0000:01:00.0", "rwm")]),
        # As docker-py and compose split the text at its colons.
        HostConfig(devices=[DeviceMapping("vfio=0000", "01", "00.0")]),
        HostConfig(devices=[DeviceMapping("vfio/pci=0000", "01", "00.0")]),
        HostConfig(devices=[DeviceMapping("vfio/pci=01", "00.0", "rwm")]),
    ],
)
def test_a_pci_device_is_named_in_these_forms(host_config: HostConfig) -> None:
    assert pci_devices(host_config) == ("0000:01:00.0",)
    assert unserved_request(host_config) == ""


@pytest.mark.parametrize(
    "device", [DeviceMapping("vfio=0000:01:00.0", "/dev/gpu", "rwm"), DeviceMapping("vfio=01:00.0", "", "x")]
)
def test_a_pci_device_has_no_place_in_the_container(device: DeviceMapping) -> None:
    with pytest.raises(InvalidParameter, match="invalid PCI address"):
        pci_devices(HostConfig(devices=[device]))


def test_addresses_are_in_lower_case_and_in_order() -> None:
    found = pci_devices(_cdi("vfio/pci=00AF:C1:1f.7", "vfio/pci=0000:02:00.0"))
    assert found == ("00af:c1:1f.7", "0000:02:00.0")


@pytest.mark.parametrize("text", ["", "01:00", "0000:01:00.8", "0000:01:20.0", "../../x", "0000:01:00.0,rombar=0"])
def test_another_text_is_no_address(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid PCI address: '.*' is not of the form 0000:01:00\.0$"):
        pci_devices(_cdi(f"vfio/pci={text}"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            DeviceRequest(count=-1, capabilities=[["gpu"]], options={}),
            'could not select device driver "" with capabilities: [[gpu]]',
        ),
        (
            DeviceRequest("nvidia", 0, ["0"], [["gpu", "utility"], ["tpu"]]),
            'could not select device driver "nvidia" with capabilities: [[gpu utility] [tpu]]',
        ),
        (DeviceRequest(), 'could not select device driver "" with capabilities: []'),
        (
            DeviceRequest("cdi", 0, ["nvidia.com/gpu=all", "vfio/pci=01:00.0", "a.b/c=d"]),
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all, a.b/c=d",
        ),
    ],
)
def test_other_requests_are_refused_in_dockers_words(request_: DeviceRequest, words: str) -> None:
    assert unserved_request(HostConfig(device_requests=[request_])) == words


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (DeviceRequest("cdi", 1, ["vfio/pci=01:00.0"]), "unexpected count in CDI device request"),
        (DeviceRequest("cdi", 0, ["vfio/pci=01:00.0"], options={"a": "b"}), "unexpected options in CDI device request"),
    ],
)
def test_a_cdi_request_has_names_alone(request_: DeviceRequest, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        unserved_request(HostConfig(device_requests=[request_]))


def test_a_pci_device_is_no_device_node_of_the_guest() -> None:
    host_config = HostConfig(devices=[DeviceMapping("vfio=01:00.0"), DeviceMapping("/dev/fuse")])
    spec = build_spec(ContainerConfig(cmd=["x"]), host_config, "h", [])
    assert b"vfio" not in spec
    assert b"/dev/fuse" in spec


async def test_a_flood_costs_little_and_is_cut() -> None:
    flood = "vfio=" + ":vfio" * 200_000
    with cpu_of_steps() as steps, pytest.raises(InvalidParameter) as caught:
        pci_devices(HostConfig(devices=[DeviceMapping(flood)]))
    assert steps.longest < 0.05
    assert len(str(caught.value)) < 300
    for request in (
        DeviceRequest("x" * 10_000, capabilities=[["y"] * 10_000]),
        DeviceRequest("cdi", 0, ["z"] * 10_000),
    ):
        assert len(unserved_request(HostConfig(device_requests=[request]))) < 500
