"""Whether the hypervisor can give a container the devices of the host that the container asks for."""

import trio

from appliance.container.devices import pci_devices, unserved_request
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter, Unsupported
from appliance.hypervisor import Driver, offered_devices, takes_pci_devices


async def check_devices(driver: Driver, host_config: HostConfig) -> None:
    """Check a new container's devices against what the hypervisor offers.

    InvalidParameter begins with Docker's words, which clients recognise. Unsupported for a PCI device on a hypervisor that gives none
    to its machines. Whether a PCI device exists and is free, the start finds out.
    """
    problem = unserved_request(host_config)
    if problem:
        offered = await trio.to_thread.run_sync(offered_devices, driver)
        raise InvalidParameter(f"{problem}: {offered}")
    addresses = pci_devices(host_config)
    if addresses and not takes_pci_devices(driver):
        raise Unsupported(f"PCI device {addresses[0]}: {offered_devices(driver)}")
