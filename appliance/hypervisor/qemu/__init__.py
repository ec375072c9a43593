"""The QEMU driver: `command` builds the command line (pure), `driver` runs it. Only composition roots import this."""

from appliance.hypervisor.qemu.driver import QemuDriver, default_pool, has_room

__all__ = ["QemuDriver", "default_pool", "has_room"]
