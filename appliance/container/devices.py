"""Devices of the host that a container asks for: PCI devices by their address, CDI names, and `--gpus`. Pure.

A PCI device has the CDI name `vfio/pci=ADDRESS`, which the docker CLI accepts (`--device vfio/pci=0000:01:00.0`) and sends as a device
request. Compose sends the same text as an element of Devices, split at its colons. Clients of the API may also send `vfio=ADDRESS`
there, which the docker CLI rejects.
"""

import re
from collections.abc import Iterator

from appliance.container.host_config import DeviceMapping, DeviceRequest, HostConfig
from appliance.errors import InvalidParameter

# The driver that the docker CLI names in a device request for a CDI name.
_CDI = "cdi"
_CDI_PREFIX = "vfio/pci="
_DEVICE_PREFIXES = (_CDI_PREFIX, "vfio=")
_ADDRESS = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])", re.IGNORECASE)
# Of a text that a client sends, an error shows so many characters.
_MOST_SHOWN = 200
_DEFAULTS = re.compile(r"(:vfio.*?)?(:[rwm]{1,3})?$")


def cdi_name(address: str) -> str:
    """The name of a PCI device for `--device`."""
    return f"{_CDI_PREFIX}{address}"


def is_pci_device(device: DeviceMapping) -> bool:
    """Whether an element of Devices is a PCI device of the host, and not a device node of the guest."""
    return device.path_on_host.startswith(_DEVICE_PREFIXES)


def pci_devices(host_config: HostConfig) -> tuple[str, ...]:
    """The addresses, such as "0000:01:00.0", of the PCI devices that the container gets. InvalidParameter for an invalid address."""
    return tuple(dict.fromkeys(_addresses(host_config)))


def _addresses(host_config: HostConfig) -> Iterator[str]:
    for device in filter(is_pci_device, host_config.devices or ()):
        # Clients split the text at its colons. Where they do not, they add the default path in the container, and permissions.
        parts = (device.path_on_host, device.path_in_container, device.cgroup_permissions)
        text = ":".join(filter(None, parts)).partition("=")[2]
        yield _parse_address(_DEFAULTS.sub("", text) if len(text) <= _MOST_SHOWN else text)
    for request in host_config.device_requests or ():
        for name in request.device_ids or ():
            if request.driver == _CDI and name.startswith(_CDI_PREFIX):
                yield _parse_address(name.removeprefix(_CDI_PREFIX))


def _parse_address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise InvalidParameter(f"invalid PCI address: {text[:_MOST_SHOWN]!r} is not of the form 0000:01:00.0")
    return f"{found[1] or '0000'}:{found[2]}".lower()


def unserved_request(host_config: HostConfig) -> str:
    """Docker's error for the first device request that vch has no driver for; "" when there is none.

    InvalidParameter for a malformed request. The texts are those of moby's daemon/devices.go and daemon/cdi.go.
    """
    for request in host_config.device_requests or ():
        if request.driver != _CDI:
            driver, lists = _shown(request.driver), _shown(_go_lists(request))
            return f'could not select device driver "{driver}" with capabilities: {lists}'
        if request.count:
            raise InvalidParameter("unexpected count in CDI device request")
        if request.options:
            raise InvalidParameter("unexpected options in CDI device request")
        unknown = [name for name in request.device_ids or () if not name.startswith(_CDI_PREFIX)]
        if unknown:
            return f"CDI device injection failed: unresolvable CDI devices {_shown(', '.join(unknown))}"
    return ""


def _go_lists(request: DeviceRequest) -> str:
    """Capabilities as Go prints them: [[gpu nvidia] [tpu]]."""
    lists = (f"[{' '.join(words)}]" for words in request.capabilities or ())
    return f"[{' '.join(lists)}]"


def _shown(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
