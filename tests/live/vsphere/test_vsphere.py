"""vchd on vSphere, end to end: the docker CLI, real guests behind VMware's simulator, hosts that move machines."""

import concurrent.futures
import hashlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from appliance.hypervisor.vsphere.spec import uuid_of
from tests.live.images import busybox_layer, image_archive, layer_with
from tests.live.lan import GATEWAY, NAME, PORT, SUBNET
from tests.live.nfs import running_nfs
from tests.live.registry import real_registry
from tests.live.terminal import Terminal
from tests.live.vsphere.daemon import Vsphere, running_vsphere
from tests.live.vsphere.faultproxy import LOSE_ANSWER
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges need the rights of root"),
]


_PORTGROUP = "DC0_DVPG0"
_LAN = f"portgroup={_PORTGROUP},subnet={SUBNET},gateway={GATEWAY},dns={GATEWAY},range=198.51.100.64/28"


@pytest.fixture(scope="module")
def vsphere() -> Iterator[Vsphere]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        networks = ["--volume-store", "served=nfs://172.17.0.1/export"]
        for setting in (f"name=lan,{_LAN}", f"name=leases,portgroup={_PORTGROUP}"):
            networks += ["--container-network", setting]
        with running_vsphere(Path(path), *networks, with_lan=True) as one:
            yield one


def _stays(path: str) -> bool:
    """Whether a file of the datastore belongs to no single container: a layer, a guest, the owner's mark."""
    return "/layers/" in path or "/guest/" in path or path.endswith("/owner")


def _uuid(vsphere: Vsphere, name: str) -> str:
    return uuid_of("test", vsphere.daemon.must("inspect", name, "--format", "{{.Id}}").strip())


def test_a_terminal_logs_exec_stop_and_start_again(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    terminal = Terminal(daemon, "run", "-it", "--name", "tty", "busybox", "sh")
    terminal.expect("# ")
    terminal.type("stty size; echo kept > /kept\n")
    terminal.expect("31 97")
    assert daemon.must("exec", "tty", "cat", "/kept") == "kept\n"
    terminal.type("exit 3\n")
    assert terminal.end() == 3
    daemon.must("start", "tty")
    assert daemon.must("exec", "tty", "cat", "/kept") == "kept\n"
    daemon.must("stop", "-t", "0", "tty")
    assert daemon.must("inspect", "tty", "--format", "{{.State.Status}} {{.State.ExitCode}}").strip() == "exited 137"
    assert "31 97" in daemon.must("logs", "tty")
    daemon.must("rm", "tty")


def test_logs_are_followed_through_a_kill_of_vchd(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    script = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.25; done"
    daemon.must("run", "-d", "--name", "follow", "busybox", "sh", "-c", script)
    daemon.kill()
    time.sleep(1)
    daemon.start()
    assert daemon.must("logs", "-f", "follow") == "".join(f"line {number}\n" for number in range(40))
    daemon.must("rm", "follow")


def test_containers_stay_when_vchd_ends_in_peace(vsphere: Vsphere) -> None:
    """At vchd's end its sessions, lines and ports close in any order, while one container writes."""
    daemon = vsphere.daemon
    for name in ("quiet", "loud"):
        said = "while true; do echo more; done" if name == "loud" else "sleep 1000"
        daemon.must("run", "-d", "--name", name, "busybox", "sh", "-c", said)
    began = [daemon.must("inspect", "-f", "{{.State.StartedAt}}", name) for name in ("quiet", "loud")]
    for _ in range(3):
        time.sleep(1.5)
        daemon.stop()
        daemon.start()
        # At once, while vchd is still taking over the guest.
        assert len(daemon.must("exec", "quiet", "sh", "-c", "sleep 0.5; head -c 8000000 /dev/zero")) == 8_000_000
    for name, since in zip(("quiet", "loud"), began, strict=True):
        assert daemon.must("inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", name) == f"true {since}"
        daemon.must("rm", "-f", name)


def test_a_portgroup_is_a_network(vsphere: Vsphere) -> None:
    daemon, lan = vsphere.daemon, vsphere.lan
    assert lan is not None
    page = f"http://{NAME}:{PORT}/"
    serve = "mkdir -p /www; echo served > /www/index.html; httpd -p 80 -h /www; exec httpd -f -p 81 -h /www"
    for network in ("lan", "leases"):
        daemon.must("run", "-d", "--name", "web", "--network", network, "-p", "80", "busybox", "sh", "-c", serve)
        address = daemon.must("inspect", "web", "-f", f"{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}").strip()
        assert daemon.must("port", "web", "80").strip() == f"{address}:80"
        assert daemon.must("exec", "web", "wget", "-qO-", page) == address
        assert (lan.fetch(address, 80), lan.fetch(address, 81, served=False)) == ("served", "")
        # A restarted vchd takes over the container with its address.
        daemon.kill()
        daemon.start()
        assert daemon.must("exec", "web", "wget", "-qO-", page) == address
        daemon.must("rm", "-f", "web")
    # `network connect` plugs a NIC into the running VM.
    daemon.must("run", "-d", "--name", "web", "busybox", "sh", "-c", serve)
    daemon.must("network", "connect", "lan", "web")
    address = daemon.must("inspect", "web", "-f", "{{.NetworkSettings.Networks.lan.IPAddress}}").strip()
    assert lan.fetch(address, 80, served=False) == "", "the port is not published"
    assert daemon.must("exec", "web", "wget", "-qO-", f"http://{GATEWAY}:{PORT}/") == address
    daemon.must("network", "disconnect", "lan", "web")
    daemon.must("rm", "-f", "web")


def test_moves_while_data_goes_through(vsphere: Vsphere) -> None:
    """Data flows in both directions until the moves are over, at least 16 MiB."""
    daemon = vsphere.daemon
    daemon.must("create", "-i", "--name", "mover", "busybox", "cat")
    client = subprocess.Popen(
        daemon.command("start", "-ai", "mover"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert client.stdin is not None
    assert client.stdout is not None
    given, came = hashlib.sha256(), hashlib.sha256()
    flows, moved = threading.Event(), threading.Event()

    def move() -> None:
        assert flows.wait(120)
        for give_up in (False, True, False):
            vsphere.move(_uuid(vsphere, "mover"), give_up=give_up)
        moved.set()

    def feed(stdin: IO[bytes]) -> int:
        size = 0
        with stdin:
            for number in range(64):
                if number >= 16 and moved.is_set():
                    break
                piece = os.urandom(1 << 20)
                given.update(piece)
                # Without a buffer, a write may take a part.
                while piece:
                    written = stdin.write(piece)
                    size, piece = size + written, piece[written:]
        assert moved.is_set(), "the moves took longer than 64 MiB"
        return size

    with concurrent.futures.ThreadPoolExecutor(2) as pool, client.stdout:
        moving, feeding = pool.submit(move), pool.submit(feed, client.stdin)
        total = 0
        while piece := client.stdout.read(1 << 16):
            flows.set()
            came.update(piece)
            total += len(piece)
        moving.result()
        assert total == feeding.result()
    assert client.wait(60) == 0
    assert came.hexdigest() == given.hexdigest()
    daemon.must("rm", "mover")


def test_a_move_of_a_vm_with_only_a_serial_port(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    # 16550s are slow: a few seconds of output.
    script = "i=0; while [ $i -lt 20000 ]; do echo 0123456789 $i; i=$((i+1)); done"
    daemon.must("create", "--name", "alone", "--network", "none", "busybox", "sh", "-c", script)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(daemon.must, "start", "-a", "alone")
        while not daemon.must("logs", "--tail", "1", "alone"):
            time.sleep(0.05)
        for give_up in (False, True, False):
            vsphere.move(_uuid(vsphere, "alone"), give_up=give_up)
        assert not running.done()
        assert running.result() == "".join(f"0123456789 {number}\n" for number in range(20000))
    daemon.must("rm", "alone")


def test_the_serial_port_takes_over_when_the_network_fails(vsphere: Vsphere) -> None:
    """The output is the same with the fast path, without it, and with a new fast path."""
    daemon = vsphere.daemon
    daemon.must("run", "-d", "--name", "torn", "busybox", "sleep", "1000")
    script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789 $i; i=$((i+1)); done"
    expected = "".join(f"0123456789 {number}\n" for number in range(3000))
    assert daemon.must("exec", "torn", "sh", "-c", script) == expected
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = script.replace("i=$((i+1));", "i=$((i+1)); [ $((i % 300)) = 0 ] && sleep 1;")
        running = pool.submit(daemon.must, "exec", "torn", "sh", "-c", slow)
        time.sleep(2)
        daemon.must("network", "disconnect", "bridge", "torn")
        assert running.result() == expected
    assert daemon.must("exec", "torn", "sh", "-c", script) == expected
    daemon.must("network", "connect", "bridge", "torn")
    assert daemon.must("exec", "torn", "sh", "-c", script) == expected
    daemon.must("rm", "-f", "torn")


def test_an_internal_network_lets_only_the_fast_path_through(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("network", "create", "--internal", "inner")
    daemon.must("run", "-d", "--name", "shut", "--network", "inner", "busybox", "sleep", "1000")
    gateway = daemon.must("network", "inspect", "inner", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    deadline = time.monotonic() + 60
    while not re.search(rf"{re.escape(gateway)}(%\w+)?:2378 ", daemon.run_inside("ss", "-tn", "state", "established")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    script = f"nc -w 2 {gateway} 2377 </dev/null; echo $?; nc -w 2 172.17.0.1 2378 </dev/null; echo $?"
    assert daemon.must("exec", "shut", "sh", "-c", script).split() == ["1", "1"]
    daemon.must("rm", "-f", "shut")
    daemon.must("network", "rm", "inner")


def test_vchd_notices_what_an_operator_does(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("run", "-d", "--name", "ended", "busybox", "sh", "-c", "echo kept > /kept; sync; sleep 1000")
    assert daemon.must("exec", "ended", "cat", "/kept") == "kept\n"
    begun = time.time()
    vsphere.operate("off", _uuid(vsphere, "ended"))
    assert daemon.must("wait", "ended") == "137\n"
    events = daemon.must(
        "events", "--since", f"{begun:.3f}", "--until", f"{time.time():.3f}", "--format", "{{.Action}}"
    )
    assert "die" in events.split()
    daemon.must("start", "ended")
    assert daemon.must("exec", "ended", "cat", "/kept") == "kept\n"
    # vchd detaches the disks of a VM that is off; vSphere may delete them with the VM first.
    vsphere.operate("delete", _uuid(vsphere, "ended"))
    assert daemon.must("wait", "ended") == "137\n"
    daemon.must("rm", "ended")
    assert daemon.must("run", "--rm", "busybox", "echo", "well") == "well\n"


def _status(vsphere: Vsphere, name: str) -> str:
    return vsphere.daemon.must("inspect", name, "--format", "{{.State.Status}}").strip()


def _until_status(vsphere: Vsphere, name: str, wanted: str) -> None:
    deadline = time.monotonic() + 60
    while _status(vsphere, name) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _actions(vsphere: Vsphere, name: str, since: float) -> list[str]:
    return vsphere.daemon.must(
        "events",
        "--since",
        f"{since:.3f}",
        "--until",
        f"{time.time():.3f}",
        "--filter",
        f"container={name}",
        "--format",
        "{{.Action}} {{.Actor.Attributes.machineName}} {{.Actor.Attributes.oldMachineName}} {{.Actor.Attributes.host}}",
    ).splitlines()


def test_a_machine_that_an_operator_suspends(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    count = "i=0; while true; do echo $((i+=1)); sleep 0.2; done"
    daemon.must("run", "-d", "--name", "sleeper", "busybox", "sh", "-c", count)
    begun, uuid = time.time(), _uuid(vsphere, "sleeper")
    vsphere.operate("suspend", uuid)
    _until_status(vsphere, "sleeper", "paused")
    assert "is paused, unpause the container before exec" in daemon.docker("exec", "sleeper", "true").stderr
    vsphere.operate("resume", uuid)
    _until_status(vsphere, "sleeper", "running")
    assert daemon.must("exec", "sleeper", "echo", "awake") == "awake\n"
    # The operator suspends the VM again, then vchd is killed: the next vchd does not take the VM for lost.
    vsphere.operate("suspend", uuid)
    _until_status(vsphere, "sleeper", "paused")
    told = [line.split()[0] for line in _actions(vsphere, "sleeper", begun)]
    assert [action for action in told if "pause" in action] == ["pause", "unpause", "pause"]
    daemon.kill()
    daemon.start()
    _until_status(vsphere, "sleeper", "paused")
    time.sleep(1)
    daemon.must("unpause", "sleeper")
    assert _status(vsphere, "sleeper") == "running"
    # The guest's clock stopped while the VM was suspended; vchd has set it.
    earliest = time.time() - 2
    assert earliest < int(daemon.must("exec", "sleeper", "date", "+%s")) < time.time() + 2
    # No line is lost, and no line appears twice.
    daemon.must("stop", "-t", "0", "sleeper")
    lines = daemon.must("logs", "sleeper").split()
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    daemon.must("rm", "sleeper")


def test_pause_that_suspends(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.stop()
    daemon.start("--pause-by", "suspend")
    for end in (("stop", "-t", "60"), ("kill",)):
        trap = "trap 'echo told; exit 7' TERM; while true; do sleep 0.1; done"
        daemon.must("run", "-d", "--name", "pauses", "busybox", "sh", "-c", trap)
        daemon.must("pause", "pauses")
        assert _status(vsphere, "pauses") == "paused"
        assert (
            f"Container {daemon.must('inspect', 'pauses', '-f', '{{.Id}}').strip()} is already paused"
            in daemon.docker("pause", "pauses").stderr
        )
        daemon.must("unpause", "pauses")
        assert daemon.must("exec", "pauses", "echo", "awake") == "awake\n"
        daemon.must("pause", "pauses")
        daemon.must(*end, "pauses")
        assert daemon.must("inspect", "pauses", "-f", "{{.State.ExitCode}}") == ("7\n" if end[0] == "stop" else "137\n")
        daemon.must("rm", "pauses")
    daemon.stop()
    daemon.start()


def test_a_machine_that_is_renamed_and_moved(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("run", "-d", "--name", "moved", "busybox", "sleep", "1000")
    begun, uuid = time.time(), _uuid(vsphere, "moved")
    vsphere.operate("rename", uuid, "another-name")
    vsphere.operate("migrate", uuid)
    deadline = time.monotonic() + 60
    while len(told := [line for line in _actions(vsphere, "moved", begun) if line.startswith("m")]) < 2:
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    short = daemon.must("ps", "-q", "--filter", "name=moved").strip()
    assert told[0].split()[:3] == ["machine-rename", "another-name", f"moved-{short}"]
    assert told[1].split()[0] == "migrate"
    assert "DC0_C0_H" in told[1]
    # The container still runs.
    assert _status(vsphere, "moved") == "running"
    assert daemon.must("exec", "moved", "echo", "here") == "here\n"
    daemon.must("rm", "-f", "moved")


def test_networks_names_and_ports(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("network", "create", "one")
    daemon.must("network", "create", "two")
    serve = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    daemon.must("run", "-d", "--name", "web", "--network", "one", "-p", "8080:80", "busybox", "sh", "-c", serve)
    assert daemon.shell("--network", "one", "wget -qO- http://web/").stdout == "hello\n"
    address = daemon.must("inspect", "web", "--format", "{{.NetworkSettings.Networks.one.IPAddress}}").strip()
    apart = daemon.shell("--network", "two", f"nslookup web; nc -w 2 {address} 80 </dev/null || echo apart").stdout
    assert "apart" in apart
    assert address not in apart
    assert daemon.run_inside("curl", "-s", "http://127.0.0.1:8080/") == "hello\n"
    daemon.must("network", "connect", "two", "web")
    assert daemon.shell("--network", "two", "wget -qO- http://web/").stdout == "hello\n"
    daemon.must("rm", "-f", "web")
    daemon.must("network", "rm", "one", "two")


def test_a_volume_store_of_an_nfs_server(vsphere: Vsphere, short_path: Path) -> None:
    daemon = vsphere.daemon
    with running_nfs(daemon, short_path) as export:
        daemon.must("volume", "create", "-o", "VolumeStore=served", "shared")
        daemon.must(
            "run",
            "-d",
            "--name",
            "writer",
            "-v",
            "shared:/data",
            "busybox",
            "sh",
            "-c",
            "echo here > /data/file; sleep 1000",
        )
        # Two containers use the volume at the same time, which a volume on a disk does not allow.
        assert daemon.shell("-v", "shared:/data", "cat /data/file").stdout == "here\n"
        assert (export / "test/shared/file").read_text() == "here\n"
        daemon.must("rm", "-f", "writer")
        daemon.must("volume", "rm", "shared")
        assert list((export / "test").iterdir()) == []


def test_volumes_and_files(vsphere: Vsphere, tmp_path: Path) -> None:
    daemon = vsphere.daemon
    daemon.must("volume", "create", "--opt", "size=64m", "data")
    daemon.must("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert daemon.must("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file") == "kept\n"
    refused = daemon.docker("volume", "create", "--opt", "VolumeStore=none", "far").stderr
    assert 'create far: no volume store named "none"; choose one of other' in refused
    daemon.must("volume", "create", "--opt", "VolumeStore=other", "--opt", "size=32m", "far")
    daemon.must("run", "--rm", "-v", "far:/far", "-v", "data:/data", "busybox", "cp", "/data/file", "/far/file")
    assert any("LocalDS_1" in path and "far.disk@other" in path for path in vsphere.files())
    assert daemon.must("run", "--rm", "-v", "far:/far", "busybox", "cat", "/far/file") == "kept\n"
    daemon.must("volume", "rm", "data", "far")
    daemon.must("create", "--name", "files", "busybox")
    (tmp_path / "in").write_text("copied\n")
    daemon.must("cp", str(tmp_path / "in"), "files:/in")
    daemon.must("cp", "files:/in", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "copied\n"
    daemon.must("rm", "files")
    refused = daemon.docker("run", "--rm", "-v", "/etc:/host", "busybox", "true").stderr
    assert "this hypervisor runs machines on other hosts than the daemon's" in refused


def test_a_lone_esxi(short_path: Path) -> None:
    with running_vsphere(short_path, simulated=["-esx"]) as vsphere:
        daemon = vsphere.daemon
        daemon.must("run", "-d", "--name", "alone", "busybox", "sh", "-c", "echo said; sleep 1000")
        daemon.kill()
        daemon.start()
        assert daemon.must("exec", "alone", "echo", "there") == "there\n"
        daemon.must("stop", "-t", "0", "alone")
        assert daemon.must("logs", "alone") == "said\n"
        daemon.must("rm", "alone")
        daemon.stop()
        assert "--vm-pool: InstantClones need a vCenter of version 6.7 or later" in daemon.refusal("--vm-pool", "1")


def test_datastores_of_vsan(short_path: Path) -> None:
    with running_vsphere(short_path, simulated=["-vsan", "-host", "3"]) as vsphere:
        daemon = vsphere.daemon
        daemon.must("volume", "create", "-o", "VolumeStore=other", "away")
        volumes = ("-v", "kept:/data", "-v", "away:/away")
        daemon.must(
            "run", "-d", "--name", "one", *volumes, "busybox", "sh", "-c", "echo here | tee /data/a /away/b; sleep 1000"
        )
        daemon.kill()
        daemon.start()
        assert daemon.must("exec", "one", "cat", "/data/a", "/away/b") == "here\nhere\n"
        daemon.must("rm", "-f", "one")
        assert daemon.must("run", "--rm", *volumes, "busybox", "cat", "/data/a", "/away/b") == "here\nhere\n"
        daemon.must("volume", "rm", "kept", "away")
        assert [path for path in vsphere.files() if not _stays(path)] == []
        daemon.must("rmi", "busybox")
        until(lambda: not any("/layers/" in path for path in vsphere.files()))


@pytest.mark.parametrize("firmware", ["bios", "efi"])
def test_machines_boot_from_their_cd(short_path: Path, firmware: str) -> None:
    with running_vsphere(short_path, "--vm-firmware", firmware, boot="cd") as vsphere:
        # The CD has the modules, too.
        script = "modprobe wireguard; ls /sys/firmware /sys/module /usr/src; echo booted"
        kernel = ("-v", "/lib/modules:/lib/modules:ro", "-v", "/usr/src:/usr/src:ro")
        done = vsphere.daemon.docker("run", "--rm", "--privileged", *kernel, "busybox", "sh", "-c", script)
        assert done.stdout.splitlines()[-1] == "booted"
        found = done.stdout.split()
        assert ("efi" in found) == (firmware == "efi")
        assert "wireguard" in found, done.stderr
        assert len([name for name in found if name.startswith("linux-headers-")]) == 2
        (written,) = (one for one in vsphere.files() if one.endswith(".iso"))
        vsphere.daemon.must("run", "-d", "--name", "stays", "busybox", "sleep", "1000")
        vsphere.daemon.stop()
        before = Path(written).stat().st_mtime_ns
        # The CD of an earlier guest image, which no VM uses.
        older = Path(written).with_name(f"{'0' * 32}.iso")
        older.write_bytes(b"older")
        vsphere.daemon.start()
        assert Path(written).stat().st_mtime_ns == before
        assert not older.exists()
        vsphere.daemon.must("rm", "-f", "stays")


_CHANGES = (
    "CreateVM_Task",
    "PowerOnVM_Task",
    "PowerOffVM_Task",
    "ReconfigVM_Task",
    "Destroy_Task",
    "CreateVirtualDisk_Task",
    "DeleteVirtualDisk_Task",
    "MakeDirectory",
    "ModifyListView",
    "PUT",
    "HEAD",
)


def test_every_answer_is_lost_once(short_path: Path) -> None:
    """The first answer of each vSphere call is lost during pull, run, stop and rm. The client sees no error, and no VM is left."""
    with running_vsphere(short_path, faulty=True) as vsphere:
        daemon, proxy = vsphere.daemon, vsphere.proxy
        assert proxy is not None
        daemon.must(
            "load", stdin=image_archive([busybox_layer(), layer_with("new")], {"Env": ["PATH=/bin"]}, "another")
        )
        with real_registry(short_path, inside=daemon.inside()) as host:
            image = f"{host}/another"
            daemon.must("tag", "another", image)
            daemon.must("push", image)
            daemon.must("rmi", image, "another")
            proxy.rules += [(method, LOSE_ANSWER) for method in _CHANGES]
            daemon.must("pull", image)
        daemon.must("run", "-d", "--name", "lossy", image, "sleep", "1000")
        assert daemon.must("exec", "lossy", "echo", "there") == "there\n"
        assert proxy.calls.count("CreateVM_Task") == 1
        daemon.must("stop", "-t", "0", "lossy")
        daemon.must("start", "lossy")
        daemon.must("kill", "lossy")
        daemon.must("rm", "lossy")
        deadline = time.monotonic() + 60
        while left := [one for one in vsphere.files() if not _stays(one)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
        assert {method for method, _ in proxy.rules} <= {"PowerOffVM_Task", "MakeDirectory"}


def test_an_image_of_more_layers_than_a_machine_has_disks(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    layers = [busybox_layer(), *(layer_with(f"layer{number}") for number in range(75))]
    before = set(vsphere.files())
    daemon.must("load", stdin=image_archive(layers, {"Env": ["PATH=/bin"]}, "high"))
    said = daemon.must(
        "run", "--rm", "-v", "beside:/data", "high", "sh", "-c", "ls / | grep -c layer; cat /layer0 /layer38 /layer74"
    )
    assert said == "75\nlayer0\nlayer38\nlayer74\n"
    (shared,) = (one for one in set(vsphere.files()) - before if "/stack-" in one and one.endswith("-flat.vmdk"))
    written = Path(shared).stat().st_mtime_ns
    # The next vchd finds the shared disk again, and removes it with its image.
    daemon.kill()
    daemon.start()
    assert daemon.must("run", "--rm", "high", "cat", "/layer74") == "layer74\n"
    assert Path(shared).stat().st_mtime_ns == written
    daemon.must("rmi", "high")
    deadline = time.monotonic() + 60
    while Path(shared).exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    daemon.must("volume", "rm", "beside")


def test_layers_go_with_their_last_image(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("run", "--rm", "busybox", "true")
    before = set(vsphere.files())
    daemon.must("load", stdin=image_archive([busybox_layer(), layer_with("new")], {"Env": ["PATH=/bin"]}, "layered"))
    assert daemon.must("run", "--rm", "layered", "cat", "/new") == "new\n"
    (written,) = (one for one in set(vsphere.files()) - before if "/layers/" in one and one.endswith("-flat.vmdk"))
    daemon.must("rmi", "layered")
    deadline = time.monotonic() + 60
    while Path(written).exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert daemon.must("run", "--rm", "busybox", "echo", "still") == "still\n"


def test_no_vm_or_file_is_left(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("run", "--rm", "busybox", "true")
    assert daemon.must("ps", "-aq") == ""
    assert daemon.must("volume", "ls", "-q") == ""
    deadline = time.monotonic() + 60
    while left := [one for one in vsphere.files() if not _stays(one)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
