"""Modules of the guest's kernel, loaded at their first use; the rights of --privileged; a volume as the upper directory of overlayfs."""

import os
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu
from tests.live.host_programs import BIND, SHELL

pytestmark = [pytest.mark.live, on_qemu]

_SCRIPT = f"""
set -e
{SHELL}
loaded() {{ for name in dummy tun loop virtio_blk wireguard; do echo $name $(cut -d' ' -f1 /proc/modules | grep -cx $name); done; }}
for node in kmsg loop-control loop0 net/tun fuse mapper/control; do test -e /dev/$node || echo no $node; done
echo before $(loaded)
ip link add dummy1 type dummy
exec 3<>/dev/net/tun
dd if=/dev/zero of=/image bs=1M count=1 2>/dev/null
losetup /dev/loop0 /image
modprobe wireguard
echo after $(loaded)
ls /usr/src | grep -c linux-headers
test -e /lib/modules/$(uname -r)/config
mkdir /sys/fs/cgroup/below
echo 1 > /proc/sys/net/ipv4/conf/all/forwarding
cat /sys/fs/cgroup/cgroup.controllers
mkdir -p /v/low/dir /v/up /v/work /m
echo old > /v/low/file
mount -t overlay o -o lowerdir=/v/low,upperdir=/v/up,workdir=/v/work /m
rm /m/file
rm -r /m/dir
mkdir /m/dir
echo new > /m/new
stat -c '%F %t:%T' /v/up/file
ls -x /m
mkdir -p /run
modprobe ip_tables
for tables in nft legacy; do
    host sbin/xtables-$tables-multi iptables-restore <<END
*nat
:X - [0:0]
-A POSTROUTING -j MASQUERADE
COMMIT
*filter
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
END
    echo $tables rules
done
"""
_NONE, _ALL = (f"dummy {n} tun {n} loop {n} virtio_blk {m} wireguard {m}" for n, m in ((0, 0), (1, 1)))


@pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root")
def test_modules_devices_and_overlay_of_a_privileged_container(daemon: Daemon) -> None:
    binds = ("-v", "/lib/modules:/lib/modules:ro", "-v", "/usr/src:/usr/src:ro", "-v", "layers:/v", *BIND)
    out = daemon.must("run", "--rm", "--privileged", *binds, "busybox", "sh", "-c", _SCRIPT).splitlines()
    # The bind of /lib/modules has mounted the modules disk.
    assert out[0] == f"before {_NONE.replace('virtio_blk 0', 'virtio_blk 1')}"
    assert out[1] == f"after {_ALL}"
    assert out[2] == "2"
    assert {"cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"} <= set(out[3].split())
    assert out[4] == "character special file 0:0"
    assert out[5].split() == ["dir", "new"]
    assert out[6:] == ["nft rules", "legacy rules"]
    # On the host the whiteout is a device, and `trusted.` attributes have another name.
    upper = Path(daemon.must("volume", "inspect", "-f", "{{.Mountpoint}}", "layers").strip()) / "up"
    assert (upper / "file").stat().st_rdev == 0
    assert os.listxattr(upper / "dir") == ["user.vch.trusted.overlay.opaque"]
    daemon.must("volume", "rm", "layers")


def test_nothing_is_loaded_before_it_is_needed(daemon: Daemon) -> None:
    script = "cut -d' ' -f1 /proc/modules; ls /lib/modules 2>&1; true"
    out = daemon.must("run", "--rm", "--privileged", "busybox", "sh", "-c", script)
    assert not {"virtio_blk", "squashfs", "tun", "loop", "nf_tables", "bridge"} & set(out.split())
