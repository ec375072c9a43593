"""Images of whole systems, made of Debian's packages, and what is loaded into them."""

from tests.apps.images import App

# containerd, runc and ctr come with docker.io.
DOCKERD = App("dind:12", ("iptables", "docker.io", "kmod", "procps"), ('CMD ["bash"]',))
SYSTEMD = App(
    "systemd:12",
    ("systemd", "systemd-sysv", "dbus"),
    ('CMD ["/sbin/init"]', "STOPSIGNAL SIGRTMIN+3"),
    hooks=("systemctl mask getty.target console-getty.service",),
)
PODMAN = App("podman:12", ("podman", "crun", "netavark", "aardvark-dns", "iptables", "procps"), ('CMD ["bash"]',))
