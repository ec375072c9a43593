"""The guest's entry point: PID 1 of a container's VM."""

import gc
import logging
import os
import sys
import time

import trio

from protos.tether.v1 import filesystem_pb2, metrics_pb2, network_pb2, process_pb2, sandbox_pb2, stdio_pb2, tunnel_pb2
from tether.agent.containers import Containers
from tether.agent.dhcp import Leases
from tether.agent.fast_path import FastPathDialler
from tether.agent.files import FilesystemService
from tether.agent.machine import SandboxService
from tether.agent.modules import prepare_autoload
from tether.agent.network import NetworkService
from tether.agent.process import ProcessService
from tether.agent.process_table import ProcessTable
from tether.agent.reaper import Reaper
from tether.agent.stats import MetricsService
from tether.agent.stdio import StdioService
from tether.agent.tunnel import TunnelService
from tether.rpc.call import Method, methods_of
from tether.rpc.listener import serve_link
from tether.system import linux
from tether.system.cgroup import ROOT, enable_controllers
from tether.system.host_defaults import apply_host_defaults
from tether.system.rtnetlink import loopback_up
from tether.transport import Line, open_serial, open_virtio_port

PORT = "tether"


def _mount_kernel_filesystems() -> None:
    """Mount what init has not: init mounts proc, sysfs and devtmpfs, to load modules before Python runs."""
    private = linux.MS_NOSUID | linux.MS_NOEXEC | linux.MS_NODEV
    linux.mount("cgroup2", str(ROOT), "cgroup2", private, "nsdelegate,memory_recursiveprot")
    os.makedirs("/dev/pts", exist_ok=True)
    linux.mount(
        "devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"
    )
    linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755")
    # Shared, so that a child that was forked ahead of its container sees later mounts too.
    os.makedirs("/run/tether")
    linux.mount("/run/tether", "/run/tether", None, linux.MS_BIND)
    linux.mount(None, "/run/tether", None, linux.MS_SHARED)
    enable_controllers()
    prepare_autoload()
    loopback_up()


def random_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1


def _open_line() -> Line:
    """The channel: the serial port that the kernel's command line names (vch.line=ttyS0), else the virtio port."""
    with open("/proc/cmdline") as file:
        words = dict(word.partition("=")[::2] for word in file.read().split())
    name = words.get("vch.line")
    return open_serial(f"/dev/{name}") if name else open_virtio_port(PORT)


async def _serve(marks: list[tuple[str, int]]) -> None:
    line = _open_line()
    async with trio.open_nursery() as nursery:
        reaper = Reaper()
        nursery.start_soon(reaper.run)
        processes = ProcessTable(nursery, reaper)
        processes.prepare()
        stdio = StdioService(processes.stdio_of)
        marks.append(("ready", time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
        fast_path = FastPathDialler()
        leases = Leases(nursery, reaper)
        tunnel = TunnelService(processes.pid_of)
        containers = Containers(reaper, processes, leases, tunnel)
        sandbox = SandboxService(nursery, processes, stdio, leases, marks, containers)
        services = (
            (sandbox_pb2.DESCRIPTOR, "Sandbox", sandbox),
            (process_pb2.DESCRIPTOR, "Process", ProcessService(processes, reaper)),
            (stdio_pb2.DESCRIPTOR, "Stdio", stdio),
            (stdio_pb2.DESCRIPTOR, "Log", stdio),
            (
                filesystem_pb2.DESCRIPTOR,
                "Filesystem",
                FilesystemService(reaper, processes.pid_of, containers.base),
            ),
            (network_pb2.DESCRIPTOR, "Network", NetworkService(fast_path, leases, containers.network)),
            (metrics_pb2.DESCRIPTOR, "Metrics", MetricsService(processes.cgroup_of, processes.pid_of)),
            (tunnel_pb2.DESCRIPTOR, "Tunnel", tunnel),
        )
        methods: dict[bytes, Method] = {}
        for file, name, implementation in services:
            methods |= methods_of(file.services_by_name[name], implementation)
        # All objects so far are permanent. The collector ignores them from now on, and touches no page of a child's copy.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 50)
        await serve_link(line, methods, random_id, on_linked=fast_path.use)


def main() -> None:
    """Serve until power-off. PID 1 must not return: a failure powers the VM off, which the appliance sees as an exit."""
    marks = [("init", int(float(os.environ.pop("VCH_INIT_UPTIME", "0")) * 1e9))]
    marks.append(("python", time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="tether: %(message)s")
    try:
        _mount_kernel_filesystems()
        apply_host_defaults()
        trio.run(_serve, marks)
    except BaseException:
        logging.exception("the tether failed")
    finally:
        os.sync()
        linux.power_off()


if __name__ == "__main__":
    main()
