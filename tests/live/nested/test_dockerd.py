"""Docker of Debian inside a privileged container: iptables, overlay2 on a volume with a size, a container with a published port."""

import time

import pytest

from tests.live.daemon import Daemon
from tests.live.images import busybox_archive

pytestmark = pytest.mark.live

# Processes of the root group move to a group of their own, so that the root group can have controllers for others. Debian has no
# `dind` script, which does the same in Docker's image.
NEST = """
mkdir /sys/fs/cgroup/init
for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid > /sys/fs/cgroup/init/cgroup.procs; done
sed -e 's/ / +/g' -e 's/^/+/' < /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
"""
_PAGE = "mkdir /www; echo nested > /www/index.html; exec httpd -f -h /www -p 80"
_SECONDS = 90
