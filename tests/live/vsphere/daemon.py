"""A vchd on vSphere: VMware's simulator and a stand-in host run in the same network namespace."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.live.daemon import Daemon
from tests.live.lan import Neighbour, running_lan
from tests.live.programs import running_program
from tests.live.vsphere.faultproxy import FaultProxy, running_proxy
from tests.live.vsphere.simulator import PASSWORD, USER, Simulator, running_vcsim
from tests.live.vsphere.standin import DISTRIBUTED

# The bridge that stands for the portgroup, the veth pair from there to vchd, and the management network.
_SWITCH, _CABLE, _INTERFACE = "portgroup", "uplink", "eth1"
_MANAGEMENT, _OURS, _THEIRS = "mgmt", "192.0.2.1", "192.0.2.2"


class Vsphere:
    """A simulated vSphere: simulator, stand-in host, fault proxy. `daemon` is the vchd that uses it."""

    def __init__(
        self,
        daemon: Daemon,
        simulator: Simulator,
        host: "subprocess.Popen[str]",
        proxy: FaultProxy | None,
        lan: Neighbour | None,
    ) -> None:
        self.proxy = proxy
        # A neighbour on the distributed portgroup, if there is one.
        self.lan = lan
        self.daemon = daemon
        self.simulator = simulator
        self._host = host

    def files(self) -> list[str]:
        """All files of the datastores."""
        return [str(path) for path in self.simulator.datastores.rglob("*") if path.is_file()]

    def move(self, uuid: str, *, give_up: bool = False) -> None:
        """Simulate the vMotion of a machine; `give_up` aborts it."""
        self._send(f"move {uuid}{' abort' if give_up else ''}")

    def operate(self, what: str, uuid: str, *more: str) -> None:
        """Do what an operator does in the vSphere client: off, delete, suspend, resume, rename NAME, migrate."""
        self._send(" ".join((what, uuid, *more)))

    def _send(self, line: str) -> None:
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(f"{line}\n")
        self._host.stdin.flush()
        assert self._host.stdout.readline() == "done\n"


@contextlib.contextmanager
def hosts_beside(namespace: str) -> Iterator[list[str]]:
    """A network namespace for vSphere and its hosts, connected to an appliance's namespace. Yields the prefix of commands in there."""
    # The hosts are not on the appliance's machine, so they have a namespace of their own.
    there = f"{namespace}-dc"
    for command in (
        ("netns", "add", there),
        ("-n", there, "link", "set", "lo", "up"),
        ("-n", there, "link", "add", _SWITCH, "type", "bridge"),
        ("-n", there, "link", "set", _SWITCH, "up"),
        ("-n", there, "link", "add", _CABLE, "type", "veth", "peer", "name", _INTERFACE, "netns", namespace),
        ("-n", there, "link", "set", _CABLE, "master", _SWITCH, "up"),
        ("-n", there, "link", "add", _MANAGEMENT, "type", "veth", "peer", "name", _MANAGEMENT, "netns", namespace),
        ("-n", there, "addr", "add", f"{_THEIRS}/24", "dev", _MANAGEMENT),
        ("-n", there, "link", "set", _MANAGEMENT, "up"),
        ("-n", namespace, "addr", "add", f"{_OURS}/24", "dev", _MANAGEMENT),
        ("-n", namespace, "link", "set", _MANAGEMENT, "up"),
    ):
        subprocess.run(["ip", *command], check=True)
    # A dockerd makes bridges filter frames by IP rules; an appliance has no dockerd.
    for family in ("ip", "ip6"):
        subprocess.run(
            [
                "nsenter",
                f"--net=/run/netns/{namespace}",
                "--",
                "sysctl",
                "-qw",
                f"net.bridge.bridge-nf-call-{family}tables=0",
            ],
            check=False,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield ["nsenter", f"--net=/run/netns/{there}", "--"]
    finally:
        # The programs in the namespace have ended before: they were started within this block.
        subprocess.run(["ip", "netns", "delete", there], check=False)


@contextlib.contextmanager
def running_vsphere(
    root: Path,
    *flags: str,
    simulated: Sequence[str] = (),
    boot: str = "direct",
    faulty: bool = False,
    with_lan: bool = False,
) -> Iterator[Vsphere]:
    """A daemon that has been started, with the image busybox.

    `simulated` are flags of the simulator. `boot`: see `standin.py`. `faulty`: a fault proxy is in front of the simulator.
    """
    daemon = Daemon(root)
    assert daemon.namespace, "bridges need the rights of root"
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(hosts_beside(daemon.namespace))
        stack.callback(daemon.close)
        lan = (
            stack.enter_context(running_lan(f"{daemon.namespace}-dc", f"{_SWITCH}{DISTRIBUTED}", root))
            if with_lan
            else None
        )
        with (
            running_vcsim(root / "vcsim", "-ds", "2", *simulated, inside=inside, host=_THEIRS) as simulator,
            running_proxy(simulator, root / "proxy", f"{daemon.namespace}-dc")
            if faulty
            else contextlib.nullcontext(simulator) as place,
            standing_in(root, simulator, inside, boot) as host,
        ):
            secret = root / "password"
            secret.write_text(f"{PASSWORD}\n")
            daemon.flags = [
                "--hypervisor",
                "vsphere",
                "--vsphere",
                place.address,
                "--vsphere-user",
                USER,
                "--vsphere-password-file",
                str(secret),
                "--thumbprint",
                place.thumbprint,
                "--image-store",
                "LocalDS_0",
                "--volume-store",
                "other=LocalDS_1",
                "--bridge-network",
                "VM Network",
                "--bridge-interface",
                _INTERFACE,
                "--tenant",
                "test",
                # Each VM boots without KVM here, and a second CPU makes a boot a third slower.
                "--vm-cpus",
                "1",
                *flags,
            ]
            try:
                daemon.start()
                daemon.load_busybox()
                yield Vsphere(daemon, simulator, host, place if isinstance(place, FaultProxy) else None, lan)
            finally:
                daemon.close()


@contextlib.contextmanager
def standing_in(
    root: Path, simulator: Simulator, inside: Sequence[str], boot: str, *appliances: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run a stand-in host for this simulator; `inside` is the prefix of its command."""
    command = [
        *inside,
        sys.executable,
        "-m",
        "tests.live.vsphere.standin",
        simulator.address,
        simulator.thumbprint,
        str(root / "bodies"),
        _SWITCH,
        boot,
        *appliances,
    ]
    with running_program(command, root / "standin.log", 20) as (process, said):
        assert said == "ready"
        yield process
