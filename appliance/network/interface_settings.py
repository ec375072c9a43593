"""Kernel settings of network devices that carry frames of guests (Documentation/networking/ip-sysctl.rst).

A guest is not a router of this host: a router advertisement or a redirect from a guest must not change the host's routes
(CVE-2020-13401). moby sets accept_ra of its bridges to 0 (libnetwork, drivers/bridge/setup_device_linux.go).
"""

from pathlib import Path

_SYSCTL = Path("/proc/sys/net")
_REFUSED = (
    "ipv6/conf/{}/accept_ra",
    "ipv6/conf/{}/autoconf",
    "ipv6/conf/{}/accept_redirects",
    "ipv4/conf/{}/accept_redirects",
)


def write_sysctl(name: str, value: str) -> None:
    """Set net/NAME, as in "ipv4/ip_forward". OSError when the kernel refuses the value."""
    (_SYSCTL / name).write_text(value)


def refuse_routes_of_guests(device: str) -> None:
    """Ignore router advertisements and redirects that arrive at a device. Call this before the device is up. OSError."""
    for name in _REFUSED:
        path = _SYSCTL / name.format(device)
        # A host that was booted with ipv6.disable=1 has no such files.
        if path.exists():
            path.write_text("0")
