"""A vchd whose machines are vSphere's: VMware's simulator and a stand-in host beside it, in the same network namespace."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.live.daemon import Daemon
from tests.live.vsphere.simulator import PASSWORD, USER, Simulator, running_vcsim

# What the portgroup is on the stand-in host, and both ends of the cable from there to vchd.
_SWITCH, _CABLE, _INTERFACE = "portgroup", "uplink0", "eth1"


class Vsphere:
    """What stands in for it. `daemon` is the vchd that it is the vSphere of."""

    def __init__(self, daemon: Daemon, simulator: Simulator, host: "subprocess.Popen[str]") -> None:
        self.daemon = daemon
        self.simulator = simulator
        self._host = host

    def move(self, uuid: str, *, give_up: bool = False) -> None:
        """vMotion of a machine."""
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(f"move {uuid}{' abort' if give_up else ''}\n")
        self._host.stdin.flush()
        assert self._host.stdout.readline() == "moved\n"


@contextlib.contextmanager
def running_vsphere(root: Path, *flags: str, esx: bool = False) -> Iterator[Vsphere]:
    """A daemon that has been started once, with busybox."""
    daemon = Daemon(root)
    assert daemon.namespace, "bridges need the rights of root"
    for command in (
        ("add", _SWITCH, "type", "bridge"), ("add", _CABLE, "type", "veth", "peer", "name", _INTERFACE),
        ("set", _CABLE, "master", _SWITCH, "up"), ("set", _SWITCH, "up"),
    ):  # fmt: skip
        daemon.run_inside("ip", "link", *command)
    with contextlib.ExitStack() as stack:
        # Whatever is left in there; what is inside here ends it before.
        stack.callback(daemon.close)
        with (
            running_vcsim(root / "vcsim", *(("-esx",) if esx else ()), inside=daemon.inside()) as simulator,
            _standing_in(daemon, simulator) as host,
        ):
            secret = root / "password"
            secret.write_text(f"{PASSWORD}\n")
            daemon.flags = [
                "--hypervisor", "vsphere", "--vsphere", simulator.address, "--vsphere-user", USER,
                "--vsphere-password-file", str(secret), "--thumbprint", simulator.thumbprint,
                "--bridge-network", "VM Network", "--bridge-interface", _INTERFACE,
                "--vspc-listen", "127.0.0.1:2377", "--tenant", "test", *flags,
            ]  # fmt: skip
            try:
                daemon.start()
                daemon.load_busybox()
                yield Vsphere(daemon, simulator, host)
            finally:
                daemon.close()


@contextlib.contextmanager
def _standing_in(daemon: Daemon, simulator: Simulator) -> Iterator["subprocess.Popen[str]"]:
    command = [
        *daemon.inside(), sys.executable, "-m", "tests.live.vsphere.standin", simulator.address, simulator.thumbprint,
        str(daemon.root / "bodies"), _SWITCH,
    ]  # fmt: skip
    with open(daemon.root / "standin.log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", (daemon.root / "standin.log").read_text()
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
