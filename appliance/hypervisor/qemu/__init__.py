"""The QEMU driver. Only `appliance/hosting` imports it.

`command`, `qmp`, `slots` and `saved.fingerprint` are pure; the other modules run QEMU and talk to its monitor.
"""

from appliance.hypervisor.qemu.driver import QemuDriver, default_pool, has_room, memory_mib

__all__ = ["QemuDriver", "default_pool", "has_room", "memory_mib"]
