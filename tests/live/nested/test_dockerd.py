"""Docker, containerd and podman of Debian inside privileged containers."""

from collections.abc import Callable

import pytest

from tests.apps.images import App
from tests.live.daemon import Daemon, on_qemu
from tests.live.images import busybox_archive, busybox_layer
from tests.live.nested.images import DOCKERD, PODMAN
from tests.live.waiting import until

pytestmark = [pytest.mark.live, on_qemu, pytest.mark.usefixtures("in_lane")]

_SECONDS = 120
# Processes of the root group move to a group of their own, so that the root group can have controllers for others. An exec meanwhile makes
# a new process in the root group, so this is repeated. Debian has no `dind` script, which does the same in Docker's image.
_NEST = """
mkdir /sys/fs/cgroup/init
until
    for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid > /sys/fs/cgroup/init/cgroup.procs; done
    sed -e 's/ / +/g' -e 's/^/+/' < /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
do :; done 2>/dev/null
"""
_WEB = "mkdir /www; echo nested > /www/index.html; exec httpd -f -h /www -p 80"
# A service of Kubernetes as kube-proxy writes it: a virtual address that leads to one of two pods.
_SERVICE = """
iptables-restore --noflush <<END
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A KUBE-SVC-A -j KUBE-SEP-B
-A KUBE-SEP-A -s 10.244.0.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m recent --name A --set -m tcp -j DNAT --to-destination 10.244.0.2:80
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.244.0.3:80
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-FORWARD -p tcp -m multiport --dports 80,443 -m addrtype --dst-type LOCAL -j REJECT --reject-with icmp-port-unreachable
COMMIT
END
"""


def test_docker_in_a_container(daemon: Daemon, load: Callable[[Daemon, App], None]) -> None:
    load(daemon, DOCKERD)
    daemon.must("volume", "create", "-o", "size=4g", "images")
    options = ("--privileged", "-p", "8080:8080", "-v", "images:/var/lib/docker", "--name", "dockerd")
    daemon.must("run", "-d", *options, DOCKERD.name, "sh", "-c", f"{_NEST} exec dockerd")

    def inner(*words: str, stdin: bytes = b"") -> str:
        return daemon.must("exec", "-i", "dockerd", "docker", *words, stdin=stdin)

    until(
        lambda: daemon.docker("exec", "dockerd", "docker", "version").returncode == 0, _SECONDS, "no answer of dockerd"
    )
    assert inner("info", "-f", "{{.Driver}} {{.CgroupVersion}}") == "overlay2 2\n"
    inner("load", stdin=busybox_archive())
    inner("run", "-d", "--name", "web", "-p", "8080:80", "--memory", "64m", "busybox", "sh", "-c", _WEB)
    until(
        lambda: daemon.run_inside("curl", "-s", "http://127.0.0.1:8080/", check=False) == "nested\n",
        _SECONDS,
        "the port of the nested container does not answer",
    )
    assert inner("exec", "web", "cat", "/sys/fs/cgroup/memory.max") == f"{64 << 20}\n"
    daemon.must("stop", "-t", "60", "dockerd")
    assert daemon.must("inspect", "-f", "{{.State.ExitCode}}", "dockerd") == "0\n"
    daemon.must("rm", "-v", "dockerd")
    daemon.must("volume", "rm", "images")


def test_containerd_with_a_pod_and_rules_of_a_service(daemon: Daemon, load: Callable[[Daemon, App], None]) -> None:
    load(daemon, DOCKERD)
    daemon.must("volume", "create", "-o", "size=2g", "images")
    options = ("--privileged", "-v", "images:/var/lib/containerd", "--name", "node")
    daemon.must("run", "-d", *options, DOCKERD.name, "sh", "-c", f"{_NEST} exec containerd")

    def ctr(*words: str, stdin: bytes = b"") -> str:
        return daemon.must("exec", "-i", "node", "ctr", *words, stdin=stdin)

    until(lambda: daemon.docker("exec", "node", "ctr", "version").returncode == 0, _SECONDS, "no answer of containerd")
    ctr("images", "import", "--base-name", "busybox", "-", stdin=busybox_archive())
    image = ctr("images", "ls", "-q").split()[0]
    ctr("run", "-d", image, "pause", "sleep", "1000")
    pid = ctr("tasks", "ls").splitlines()[1].split()[1]
    # The second container of the pod joins the namespaces of the first.
    joined = [
        word for kind in ("network", "ipc", "uts") for word in ("--with-ns", f"{kind}:/proc/{pid}/ns/{_NS[kind]}")
    ]
    shown = ctr("run", "--rm", *joined, image, "app", "readlink", "/proc/self/ns/net")
    assert shown.strip() == daemon.must("exec", "node", "readlink", f"/proc/{pid}/ns/net").strip()
    daemon.must("exec", "node", "sh", "-ec", _SERVICE)
    rules = daemon.must("exec", "node", "iptables-save")
    assert "-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.244.0.3:80" in rules
    daemon.must("rm", "-f", "-v", "node")
    daemon.must("volume", "rm", "images")


_NS = {"network": "net", "ipc": "ipc", "uts": "uts"}


def test_podman_in_a_container(daemon: Daemon, load: Callable[[Daemon, App], None]) -> None:
    load(daemon, PODMAN)
    options = ("-d", "--privileged", "-v", "/var/lib/containers", "--name", "podman")
    daemon.must("run", *options, PODMAN.name, "sh", "-c", f"{_NEST} exec sleep 1000")

    def podman(*words: str, stdin: bytes = b"") -> str:
        return daemon.must("exec", "-i", "podman", "podman", *words, stdin=stdin)

    podman("import", "-", "tiny", stdin=busybox_layer())
    # An anonymous volume is a directory: virtiofs is the upper directory of overlayfs here.
    assert podman("info", "-f", "{{.Store.GraphDriverName}}") == "overlay\n"
    assert podman("run", "--rm", "tiny", "/bin/busybox", "echo", "from podman") == "from podman\n"
    daemon.must("rm", "-f", "-v", "podman")
