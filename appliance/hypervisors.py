"""The hypervisors that `--hypervisor` may name: for each name, the class of `appliance.hosting` that uses its driver.

The class is named as "module:class", so that `vchd` loads the libraries of the chosen hypervisor only.
"""

from collections.abc import Mapping

HYPERVISORS: Mapping[str, str] = {
    "qemu": "appliance.hosting.qemu:QemuHosting",
    "vsphere": "appliance.hosting.vsphere:VsphereHosting",
}
