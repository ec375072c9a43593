"""Modules of the guest's kernel: loaded at their first use, for containers with the rights to use them; and a volume as overlay's upper."""

import json

import pytest

from tests.live.daemon import Daemon

pytestmark = pytest.mark.live

_ALL = "0000" * 3 + "01ff" + "ffff" * 2
_FIRST_USE = """
set -e
for node in kmsg loop-control loop0 net/tun fuse mapper/control; do test -e /dev/$node || echo no $node; done
loaded() { cut -d' ' -f1 /proc/modules | grep -cx $1 || :; }
echo before $(loaded dummy) $(loaded tun) $(loaded loop) $(loaded virtio_blk)
ip link add dummy1 type dummy
exec 3<>/dev/net/tun
dd if=/dev/zero of=/image bs=1M count=1 2>/dev/null
losetup /dev/loop0 /image
echo after $(loaded dummy) $(loaded tun) $(loaded loop) $(loaded virtio_blk)
modprobe wireguard
echo wireguard $(loaded wireguard)
ls /usr/src | grep -c linux-headers
mkdir /sys/fs/cgroup/below && echo 1 > /proc/sys/net/ipv4/conf/all/forwarding && echo writable
cat /sys/fs/cgroup/cgroup.controllers
"""
_OVERLAY = """
set -e
mkdir -p /v/low/dir /v/up /v/work /m
echo old > /v/low/file
mount -t overlay o -o lowerdir=/v/low,upperdir=/v/up,workdir=/v/work /m
rm /m/file
rm -r /m/dir
mkdir /m/dir
echo new > /m/new
stat -c '%F %t:%T' /v/up/file
ls /m
"""
