"""The machine that a container needs, the guest's setup, and Docker's texts for processes that did not start."""

import json
from pathlib import Path
from typing import cast

import pytest
import trio

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig, LogConfig
from appliance.container.lifecycle import Created, Running
from appliance.container.mounts import MountRecord
from appliance.engine.machines.boot import (
    MachineSize,
    begin_found,
    exec_error,
    files_setup,
    fits,
    launch_setup,
    machine_spec,
    resource_shares,
    start_error,
)
from appliance.engine.machines.guest_config import GuestConfig, Link
from appliance.engine.model.container import Container
from appliance.engine.model.layout import first_layout
from appliance.engine.model.mount_plan import MountPlan, NfsVolume, PlacedMount, TmpfsVolume
from appliance.errors import InvalidParameter, VchError
from appliance.guest import (
    DiskMount,
    FailureKind,
    GuestSession,
    GuestSetup,
    OverlayMount,
    Phase,
    PlainMount,
    ProcessSetup,
    ProcessState,
    ShareMount,
    StartFailure,
    StartRefused,
)
from appliance.hypervisor import (
    Disk,
    GuestDisk,
    MachineSpec,
    Nic,
    ResourceShares,
    ScsiAddress,
    Share,
)
from appliance.hypervisor.fake import FakeHost, FakeMachine, FakeVm

SIZE = MachineSize(256, 2)
MIB = 1 << 20
TASK = "failed to create task for container: failed to create shim task: "
RUNC = f"{TASK}OCI runtime create failed: runc create failed: unable to start container process: "


def _container(host_config: HostConfig | None = None) -> Container:
    record = ContainerRecord("c0ffee", "web", 1, "sha256:1", "image", ContainerConfig(), host_config or HostConfig())
    return Container(record, Path("/c"), Created())


def _disks(count: int) -> list[GuestDisk]:
    return [GuestDisk(ScsiAddress(0, 0, lun)) for lun in range(count)]


@pytest.mark.parametrize(
    ("limit_mib", "machine_mib"),
    [(0, 256), (6, 256), (96, 256), (102, 256), (103, 512), (352, 512), (353, 1024), (851, 1024), (4096, 8192)],
)
def test_a_memory_limit_and_its_machine(limit_mib: int, machine_mib: int) -> None:
    host_config = HostConfig(memory=limit_mib * MIB)
    spec = machine_spec(_container(host_config), [], [], MountPlan(), SIZE)
    assert spec.memory_mib == machine_mib
    assert fits(spec, host_config) == ""
    assert machine_spec(_container(host_config), [], [], MountPlan(), SIZE, limited=False).memory_mib == 256


@pytest.mark.parametrize(
    ("label", "machine_mib"), [(1, 256), (256 * MIB, 256), (256 * MIB + 1, 512), (900 * MIB, 1024)]
)
def test_a_label_asks_for_a_larger_machine(label: int, machine_mib: int) -> None:
    container = _container(HostConfig(memory=96 * MIB))
    container.record.machine_memory = label
    assert machine_spec(container, [], [], MountPlan(), SIZE).memory_mib == machine_mib
    assert machine_spec(container, [], [], MountPlan(), SIZE, limited=False).memory_mib == 256


@pytest.mark.parametrize("limit_gib", [1, 2, 4, 8, 16, 32])
def test_a_usual_memory_limit_fits_the_next_size(limit_gib: int) -> None:
    host_config = HostConfig(memory=limit_gib << 30)
    size = MachineSize(2304, 2)
    assert machine_spec(_container(host_config), [], [], MountPlan(), size).memory_mib == 2304 * max(limit_gib // 2, 1)


@pytest.mark.parametrize(
    ("host_config", "cpus"),
    [
        (HostConfig(), 2),
        (HostConfig(nano_cpus=500_000_000), 2),
        (HostConfig(nano_cpus=2_000_000_001), 3),
        (HostConfig(cpuset_cpus="0-1"), 2),
        (HostConfig(cpuset_cpus="0,5"), 6),
        (HostConfig(nano_cpus=8_000_000_000, cpuset_cpus="3"), 8),
    ],
)
def test_cpus(host_config: HostConfig, cpus: int) -> None:
    spec = machine_spec(_container(host_config), [], [], MountPlan(), SIZE)
    assert spec.cpus == cpus
    assert fits(spec, host_config) == ""


def test_disks_and_nics_in_order() -> None:
    layers = [Path("/lowest"), Path("/highest")]
    nics = [Nic(f"02:00:00:00:00:0{number}") for number in range(3)]
    plan = MountPlan(shares=(Share(Path("/srv"), True),), disks=(Disk(Path("/volume"), False),))
    spec = machine_spec(_container(), layers, nics, plan, SIZE)
    assert spec == MachineSpec(
        "c0ffee",
        256,
        2,
        (
            Disk(Path("/c/upper.ext4"), False),
            Disk(Path("/lowest"), True),
            Disk(Path("/highest"), True),
            Disk(Path("/volume"), False),
        ),
        nics[0],
        (nics[1], nics[2]),
        plan.shares,
        "web",
    )


@pytest.mark.parametrize(
    ("host_config", "text"),
    [
        (
            HostConfig(memory=103 * MIB),
            "its VM has 256 MiB, too few for that limit: restart the container to get a larger VM",
        ),
        (
            HostConfig(nano_cpus=2_500_000_000),
            "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available: restart it to get more",
        ),
        (
            HostConfig(cpuset_cpus="1-2"),
            "Requested CPUs are not available - requested 1-2, available: 0-1: restart it to get more",
        ),
        (HostConfig(memory=96 * MIB, nano_cpus=2_000_000_000, cpuset_cpus="0,1"), ""),
    ],
)
def test_a_running_machine_and_new_limits(host_config: HostConfig, text: str) -> None:
    assert fits(MachineSpec("m", 256, 2), host_config) == text


def test_resource_shares() -> None:
    assert resource_shares([HostConfig(cpu_shares=512, memory_reservation=64 * MIB)]) == ResourceShares(512, 64)


def _launched(
    disks: int, plan: MountPlan, host_config: HostConfig | None = None, links: tuple[Link, ...] = ()
) -> tuple[GuestSetup, ProcessSetup]:
    config = ContainerConfig(cmd=["x"], hostname="box", domainname="example", env=["A=own"], open_stdin=True)
    guest_config = GuestConfig([], links=links, mount_plan=plan)
    return launch_setup(
        "c0ffee", config, host_config or HostConfig(), first_layout(_disks(disks), len(plan.shares)), guest_config, 0
    )


def test_the_mounts_of_a_guest() -> None:
    plan = MountPlan(
        (
            PlacedMount(MountRecord("volume", "/data", "v"), disk=0),
            PlacedMount(MountRecord("bind", "/srv", source="/srv"), share=0),
            PlacedMount(MountRecord("volume", "/nfs", "n"), server=NfsVolume(0, "192.0.2.1:/x", ())),
            PlacedMount(MountRecord("volume", "/memory", "m"), tmpfs_volume=0),
        ),
        (Share(Path("/srv"), True),),
        (Disk(Path("/volume"), False),),
        (TmpfsVolume("m", ("size=1m",)),),
    )
    setup, _ = _launched(4, plan)
    disks = _disks(4)
    found = list(setup.mounts)
    assert found[:2] == [
        DiskMount("/run/tether/layers/0", "erofs", disks[1], ("ro",)),
        DiskMount("/run/tether/layers/1", "erofs", disks[2], ("ro",)),
    ]
    upper, overlay, share, volume, memory = found[2:]
    assert isinstance(upper, DiskMount)
    assert (upper.target, upper.type, upper.disk) == ("/run/tether/upper", "ext4", disks[0])
    # The highest layer comes first in overlayfs.
    assert isinstance(overlay, OverlayMount)
    assert overlay.lower == ["/run/tether/layers/1", "/run/tether/layers/0"]
    assert isinstance(share, ShareMount)
    assert isinstance(volume, DiskMount)
    assert (volume.target, volume.disk) == ("/run/tether/disks/0", disks[3])
    assert memory == PlainMount("/run/tether/tmpfs/0", "tmpfs", ("size=1m",))
    assert list(setup.modules) == ["virtiofs", "nfsv4"]
    assert [one.destination for one in setup.volumes] == ["/data", "/srv", "/memory"]


def test_an_image_without_layers() -> None:
    setup, _ = _launched(1, MountPlan())
    empty = [mount for mount in setup.mounts if isinstance(mount, PlainMount)]
    assert empty == [PlainMount("/run/tether/layers/0", "tmpfs", ("ro",))]
    assert [mount.lower for mount in setup.mounts if isinstance(mount, OverlayMount)] == [["/run/tether/layers/0"]]


def test_the_process_of_a_container() -> None:
    host_config = HostConfig(
        console_size=[24, 80],
        log_config=LogConfig("json-file", {"mode": "non-blocking", "max-buffer-size": "1g"}),
    )
    links = (Link("db", "10.0.0.2", ("A=link", "DB_NAME=/web/db")),)
    setup, process = _launched(1, MountPlan(), host_config, links)
    assert (setup.machine_id, setup.hostname, setup.domainname) == ("c0ffee", "box", "example")
    assert (process.id, process.stdin, process.rows, process.columns) == ("c0ffee", True, 24, 80)
    assert (process.drop_oldest, process.spool_bytes) == (True, 64 << 20)
    env = json.loads(process.spec)["process"]["env"]
    assert "DB_NAME=/web/db" in env
    # The container's own variable wins.
    assert [entry for entry in env if entry.startswith("A=")][-1] == "A=own"


async def test_a_guest_for_files_alone(nursery: trio.Nursery) -> None:
    host = FakeHost(nursery)
    machine = FakeMachine(host, FakeVm(host, MachineSpec("files", 256, 1, (Disk(Path("/c"), False),))))
    setup = files_setup(_container(), machine, MountPlan(), None)
    assert (setup.machine_id, setup.network, list(setup.files)) == ("c0ffee", None, [])
    assert isinstance(setup.mounts[-1], OverlayMount)


@pytest.mark.parametrize(
    ("failure", "text", "code"),
    [
        (
            StartFailure(FailureKind.NOT_FOUND, 2, "foo", searched_path=True),
            f'{RUNC}exec: "foo": executable file not found in $PATH: unknown',
            127,
        ),
        (
            StartFailure(FailureKind.NOT_FOUND, 2, "/foo"),
            f'{RUNC}exec: "/foo": stat /foo: no such file or directory: unknown',
            127,
        ),
        (
            StartFailure(FailureKind.PERMISSION, 13, "/etc/passwd"),
            f'{RUNC}exec: "/etc/passwd": permission denied: unknown',
            126,
        ),
        (StartFailure(FailureKind.PERMISSION, 21, "/etc"), f'{RUNC}exec: "/etc": is a directory: unknown', 126),
        (StartFailure(FailureKind.PERMISSION, 8, "/data"), f"{RUNC}exec /data: exec format error", 126),
        (
            StartFailure(FailureKind.NO_SUCH_USER, 0, "joe"),
            "unable to find user joe: no matching entries in passwd file",
            126,
        ),
        (
            StartFailure(FailureKind.NO_SUCH_GROUP, 0, "crew"),
            "unable to find group crew: no matching entries in group file",
            126,
        ),
        (
            StartFailure(FailureKind.BAD_WORKING_DIRECTORY, 20, "/etc/passwd"),
            f'{RUNC}chdir to cwd ("/etc/passwd") set in config.json failed: not a directory: unknown',
            126,
        ),
        (StartFailure(FailureKind.SETUP, 0, ""), f"{RUNC}the guest's words: unknown", 128),
        (StartFailure(FailureKind.OTHER, 0, ""), f"{RUNC}the guest's words: unknown", 128),
    ],
)
def test_texts_of_failed_starts(failure: StartFailure, text: str, code: int) -> None:
    error = StartRefused(failure, "the guest's words")
    assert start_error(error) == (text, code)
    found, exec_code = exec_error(error)
    assert exec_code == code
    if text.startswith(RUNC):
        assert isinstance(found, InvalidParameter)
        tail = text.removeprefix(RUNC)
        assert str(found) == f"OCI runtime exec failed: exec failed: unable to start container process: {tail}"
    else:
        assert str(found) == text


class _Session:
    """A guest that knows one process, or none."""

    def __init__(self, *states: ProcessState) -> None:
        self.waited: list[float] = []
        self._states = {state.id: state for state in states}

    async def hello(self, timeout: float) -> None:
        self.waited.append(timeout)

    async def processes(self) -> dict[str, ProcessState]:
        return self._states


def _state(phase: Phase, pid: int) -> ProcessState:
    return ProcessState("c0ffee", phase, pid, 5, 0, 0, "")


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (_state(Phase.RUNNING, 7), True),
        (_state(Phase.PAUSED, 7), True),
        (_state(Phase.EXITED, 7), True),
        (_state(Phase.CREATED, 0), False),
        (_state(Phase.EXITED, 0), False),
        (None, False),
    ],
)
async def test_a_guest_of_an_earlier_daemon(state: ProcessState | None, found: bool) -> None:
    session = _Session(*([state] if state is not None else []))
    container = _container()
    if found:
        assert await begin_found(cast(GuestSession, session), container) is state
    else:
        with pytest.raises(VchError, match=r"^the daemon was stopped while this container was starting$"):
            await begin_found(cast(GuestSession, session), container)
    container.state = Running(1, 7)
    if found:
        await begin_found(cast(GuestSession, session), container)
        # A guest with a running process gets more time to answer.
        assert session.waited == [15.0, 120.0]
