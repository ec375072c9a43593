"""The QEMU driver: `command` builds the command line (pure), `driver` runs it. Only composition roots import this."""

from appliance.hypervisor.qemu.driver import QemuDriver
from appliance.hypervisor.qemu.pool import default_size

__all__ = ["QemuDriver", "default_size"]
