"""Volumes and paths of the host in real VMs."""

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import Tar
from tests.live.daemon import Daemon, running_daemon
from tests.live.images import busybox_layer, image_archive, layer_with
from tests.live.nfs import running_nfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("volumes")) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    yield
    for container in daemon.docker("ps", "-aq").stdout.split():
        daemon.docker("rm", "-fv", container)
    for volume in daemon.docker("volume", "ls", "-q").stdout.split():
        daemon.docker("volume", "rm", volume)


_READER = "while :; do cat /s/in 2>/dev/null; sleep 0.2; done"


def _mount_point(daemon: Daemon, name: str) -> Path:
    return Path(daemon.must("volume", "inspect", "-f", "{{.Mountpoint}}", name).strip())


# -- rows -------------------------------------------------------------------------------------------------------------


def test_volume_create_and_inspect(daemon: Daemon) -> None:
    assert daemon.must("volume", "create", "--label", "a=b", "first").strip() == "first"
    found = json.loads(daemon.must("volume", "inspect", "first"))[0]
    assert (found["Name"], found["Driver"], found["Labels"], found["Scope"]) == ("first", "local", {"a": "b"}, "local")
    assert Path(found["Mountpoint"]).is_dir()
    # A second create with the same options returns the existing volume.
    assert daemon.must("volume", "create", "first").strip() == "first"
    assert len(daemon.must("volume", "create").strip()) == 64


def test_volume_list(daemon: Daemon) -> None:
    daemon.must("volume", "create", "--label", "x=y", "listed")
    daemon.must("volume", "create", "other")
    daemon.must("create", "-v", "other:/o", "busybox")
    assert daemon.must("volume", "ls", "-q").split() == ["listed", "other"]
    for filters, names in (
        ("label=x", ["listed"]),
        ("name=th", ["other"]),
        ("dangling=true", ["listed"]),
        ("dangling=0", ["other"]),
    ):
        assert daemon.must("volume", "ls", "-q", "--filter", filters).split() == names, filters
    assert daemon.must("ps", "-aq", "--filter", "volume=other").split()
    assert not daemon.must("ps", "-aq", "--filter", "volume=listed").split()


def test_volume_remove_and_prune(daemon: Daemon) -> None:
    daemon.must("run", "--name", "user", "-v", "used:/u", "-v", "/anonymous", "busybox", "true")
    assert "volume is in use" in daemon.docker("volume", "rm", "used").stderr
    assert "get nothing: no such volume" in daemon.docker("volume", "rm", "nothing").stderr
    daemon.must("rm", "user")
    assert len(daemon.must("volume", "ls", "-q").split()) == 2
    # Without --all, prune removes anonymous volumes only.
    assert daemon.must("volume", "prune", "-f").count("\n") >= 2
    assert daemon.must("volume", "ls", "-q").split() == ["used"]
    place = _mount_point(daemon, "used")
    daemon.must("volume", "prune", "-af")
    assert not place.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("create", "../escape"), "includes invalid characters for a local volume name"),
        (("create", "-d", "nonsense", "x1"), 'plugin "nonsense" not found'),
        (("create", "-o", "type=nfs", "-o", "device=:/x", "x1"), "an NFS volume needs device=:/path and o=addr=SERVER"),
        (
            ("create", "-o", "type=nfs", "-o", "device=a:/x", "-o", "o=nfsvers=3", "x1"),
            "NFS version 3 is not supported",
        ),
        (("create", "-o", "type=cifs", "-o", "device=//a/x", "x1"), "type=cifs is not supported"),
        (("create", "-o", "nonsense=1", "x1"), 'invalid option: "nonsense"'),
        (("create", "-o", "size=some", "x1"), "invalid size: 'some'"),
    ],
)
def test_volume_create_refused(daemon: Daemon, arguments: tuple[str, ...], text: str) -> None:
    done = daemon.docker("volume", *arguments)
    assert done.returncode
    assert text in done.stderr
    assert not daemon.must("volume", "ls", "-q").split()


# -- what containers see ------------------------------------------------------------------------------------------------


def test_two_running_containers_share_a_volume(daemon: Daemon) -> None:
    daemon.must(
        "run",
        "-d",
        "--name",
        "writer",
        "-v",
        "both:/s",
        "busybox",
        "sh",
        "-c",
        _READER,
    )
    for number in range(3):
        assert daemon.shell("-v", "both:/s", f"echo word{number} > /s/in.new; mv /s/in.new /s/in").returncode == 0
        deadline = time.monotonic() + 60
        while f"word{number}" not in daemon.must("logs", "writer"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (_mount_point(daemon, "both") / "in").read_text() == "word2\n"


def test_a_new_volume_receives_the_images_files_once(daemon: Daemon) -> None:
    tar = Tar().add("data", kind=tarfile.DIRTYPE, mode=0o750, uid=33, gid=44).add("data/a", b"one", uid=33, gid=44)
    layer = tar.add("data/sub", kind=tarfile.DIRTYPE, mode=0o755).add("data/sub/b", b"two").bytes()
    daemon.must(
        "load",
        stdin=image_archive(
            [busybox_layer(), layer], {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}}, "seeded"
        ),
    )
    look = "ls -lnd /data /data/a; cat /data/a /data/sub/b; rm /data/a"
    said = daemon.must("run", "--rm", "-v", "seed:/data", "seeded", "sh", "-c", look)
    assert said.splitlines()[0].startswith("drwxr-x---")
    assert said.splitlines()[0].split()[2:4] == ["33", "44"]
    assert said.endswith("onetwo")
    again = daemon.docker("run", "--rm", "-v", "seed:/data", "seeded", "sh", "-c", "ls /data")
    assert again.stdout.split() == ["sub"]
    # A volume with nocopy does not receive the image's files.
    assert daemon.must("run", "--rm", "-v", "empty:/data:nocopy", "seeded", "ls", "/data").split() == []
    # An anonymous volume of the image is removed with its container.
    daemon.must("volume", "rm", "seed", "empty")
    assert daemon.must("run", "--rm", "seeded", "ls", "/data").split() == ["a", "sub"]
    assert daemon.must("volume", "ls", "-q").split() == []
    daemon.must("run", "--name", "keeps", "seeded", "rm", "/data/a")
    mounts = json.loads(daemon.must("inspect", "-f", "{{json .Mounts}}", "keeps"))
    assert [(mount["Type"], mount["Destination"], len(mount["Name"])) for mount in mounts] == [("volume", "/data", 64)]
    assert sorted(os.listdir(mounts[0]["Source"])) == ["sub"]
    assert daemon.must("run", "--rm", "--volumes-from", "keeps:ro", "busybox", "ls", "/data").split() == ["sub"]
    daemon.must("rm", "-v", "keeps")
    assert daemon.must("volume", "ls", "-q").split() == []


def test_paths_of_the_host(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inner").write_text("inner\n")
    outside = tmp_path / "outside"
    outside.write_text("secret\n")
    (tmp_path / "folder/link").symlink_to(outside)
    said = daemon.shell(
        "-v",
        f"{tmp_path}/folder:/f",
        "-v",
        f"{tmp_path}/file:/etc/one.conf:ro",
        "-v",
        f"{tmp_path}/made/new:/made",
        "cat /etc/one.conf /f/inner; echo back > /f/back; chown 7:8 /f/back; echo x > /etc/one.conf; cat /f/link; mknod /f/node b 8 0; "
        "ls /made; touch /f/.x; ln /f/back /f/hard",
    )
    assert said.stdout == "from the host\ninner\n"
    assert "Read-only file system" in said.stderr
    assert "can't open '/f/link'" in said.stderr
    assert "Operation not permitted" in said.stderr
    back = (tmp_path / "folder/back").stat()
    assert ((tmp_path / "folder/back").read_text(), back.st_uid, back.st_gid, back.st_nlink) == ("back\n", 7, 8, 2)
    assert (tmp_path / "made/new").is_dir()
    assert not (tmp_path / "folder/node").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--mount", "type=bind,src={root}/nowhere,dst=/x"), "bind source path does not exist: {root}/nowhere"),
        (("-v", "/dev/null:/x"), "is neither a directory nor a file"),
        (("-v", "vv:/x", "--mount", "type=tmpfs,dst=/x"), "Duplicate mount point: /x"),
        (("-v", "vv:/"), "destination can't be '/'"),
        (("-v", "vv:relative:ro"), "invalid mount path"),
        (("-v", "vv:/x:nonsense"), "invalid mode: nonsense"),
        (("--volumes-from", "nobody"), "No such container: nobody"),
        (("--mount", "type=volume,src=vv,dst=/x,volume-subpath=../up"), "subpath"),
        (("--mount", "type=volume,src=vv,dst=/x,volume-subpath=missing"), "missing"),
    ],
)
def test_mounts_refused(daemon: Daemon, tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    done = daemon.shell("--pull", "never", *(option.format(root=tmp_path) for option in options), "true")
    assert done.returncode == 125
    assert text.format(root=tmp_path) in done.stderr


def test_mounts_by_the_long_option(daemon: Daemon) -> None:
    assert (
        daemon.shell(
            "-v", "parts:/p", "mkdir -p /p/a/b; echo deep > /p/a/b/c; ln -s / /p/up; ln -s a /p/side"
        ).returncode
        == 0
    )
    said = daemon.shell(
        "--mount",
        "type=volume,src=parts,dst=/whole,readonly",
        "--mount",
        "type=volume,src=parts,dst=/part,volume-subpath=side/b",
        "--mount",
        "type=tmpfs,dst=/fast,tmpfs-size=1m,tmpfs-mode=700",
        "cat /whole/a/b/c /part/c; touch /whole/x; df -m /fast | tail -1; ls -ld /fast",
    )
    assert said.stdout.startswith("deep\ndeep\n")
    assert "Read-only file system" in said.stderr
    assert "drwx------" in said.stdout
    # A link in a volume cannot lead out of the volume.
    escaped = daemon.shell("--mount", "type=volume,src=parts,dst=/part,volume-subpath=up", "ls /part")
    assert escaped.stdout.split() == ["a", "side", "up"]


def test_a_volume_with_a_size_is_a_disk(daemon: Daemon) -> None:
    daemon.must("volume", "create", "-o", "size=32m", "small")
    full = daemon.shell("-v", "small:/s", "ls /s; dd if=/dev/zero of=/s/big bs=1M count=64")
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert full.stdout == ""
    daemon.must("run", "-d", "--name", "has", "-v", "small:/s", "busybox", "sleep", "1000")
    assert daemon.must("exec", "has", "ls", "/s").split() == ["big"]
    done = daemon.shell("-v", "small:/s", "true")
    assert "only one running container can have it" in done.stderr
    daemon.must("rm", "-f", "has")
    twice = daemon.shell("-v", "small:/s:ro", "-v", "small:/t", "ls /s; touch /s/x; rm /t/big; ls /s")
    assert (twice.returncode, twice.stdout.split()) == (0, ["big"]), twice.stderr


def test_a_volume_in_memory(daemon: Daemon) -> None:
    daemon.must("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=2m,uid=5", "memory")
    script = "ls -lnd /m; cp /bin/true /m; /m/true && ls /ro; touch /ro/x; dd if=/dev/zero of=/m/x bs=1M count=4"
    said = daemon.shell("-v", "memory:/m", "-v", "memory:/ro:ro", script)
    assert said.stdout.split()[2] == "5"
    # As with Docker, both mounts show one tmpfs, from which programs run.
    assert said.stdout.splitlines()[1:] == ["true"]
    assert "touch: /ro/x: Read-only file system" in said.stderr
    assert "No space left on device" in said.stderr
    daemon.must("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=bogus=1", "bad")
    refused = daemon.shell("-v", "bad:/m", "true")
    assert refused.stderr.splitlines()[0].endswith(", data: bogus=1: invalid argument")


def test_a_volume_that_is_a_path_of_the_host(daemon: Daemon, tmp_path: Path) -> None:
    daemon.must("volume", "create", "-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind", "elsewhere")
    assert daemon.shell("-v", "elsewhere:/e", "echo x > /e/y").returncode == 0
    assert (tmp_path / "y").read_text() == "x\n"
    daemon.must("volume", "rm", "elsewhere")
    assert (tmp_path / "y").exists()


@pytest.fixture
def nfs(daemon: Daemon, short_path: Path) -> Iterator[Path]:
    """The folder that an NFS server exports as /export on the gateway's address."""
    with running_nfs(daemon, short_path) as export:
        yield export


def test_a_volume_of_an_nfs_server(daemon: Daemon, nfs: Path) -> None:
    daemon.must(
        "volume",
        "create",
        "-o",
        "type=nfs",
        "-o",
        "device=:/export",
        "-o",
        "o=addr=172.17.0.1,rw,nfsvers=4.2",
        "served",
    )
    seed = image_archive([busybox_layer(), layer_with("seed/one", mode=0o640)], {"Env": ["PATH=/bin"]}, "seeded")
    daemon.must("load", stdin=seed)
    script = "cat /seed/one; echo kept > /seed/kept; chown 5:6 /seed/kept; mount | grep ' /seed '"
    said = daemon.must("run", "--rm", "-v", "served:/seed", "seeded", "sh", "-c", script)
    assert said.splitlines()[0] == "seed/one"  # what the image has there
    assert "172.17.0.1:/export on /seed type nfs4 (rw," in said
    found = (nfs / "kept").stat()
    assert ((nfs / "kept").read_text(), found.st_uid, found.st_gid) == ("kept\n", 5, 6)
    assert (nfs / "one").stat().st_mode & 0o777 == 0o640
    daemon.must("run", "-d", "--name", "two", "-v", "served:/s:ro", "busybox", "sleep", "1000")
    assert daemon.must("exec", "two", "cat", "/s/kept") == "kept\n"
    assert "Read-only file system" in daemon.docker("exec", "two", "touch", "/s/x").stderr
    assert daemon.shell("-v", "served:/s", "echo shared > /s/shared").returncode == 0
    assert daemon.must("exec", "two", "cat", "/s/shared") == "shared\n"
    daemon.must("rm", "-f", "two")
    daemon.must("volume", "create", "-o", "type=nfs", "-o", "device=:/x", "-o", "o=addr=no.such.host.invalid", "lost")
    assert "error resolving no.such.host.invalid" in daemon.shell("-v", "lost:/l", "true").stderr
    missing = ("-o", "type=nfs", "-o", "device=:/missing", "-o", "o=addr=172.17.0.1")
    daemon.must("volume", "create", *missing, "missing")
    assert "failed to mount local volume: mount 172.17.0.1:/missing" in daemon.shell("-v", "missing:/m", "true").stderr


# -- files of them --------------------------------------------------------------------------------------------------------


def test_copies_go_through_volumes(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("copied\n")
    daemon.must("volume", "create", "-o", "size=32m", "disk")
    daemon.must(
        "create",
        "--name",
        "still",
        "--read-only",
        "-v",
        "dir:/data/d",
        "-v",
        "disk:/data/k",
        "-v",
        "dir:/ro:ro",
        "busybox",
        "sleep",
        "1000",
    )
    for state in ("created", "running"):
        for place in ("d", "k"):
            daemon.must("cp", str(tmp_path / "in"), f"still:/data/{place}/{state}")
            daemon.must("cp", f"still:/data/{place}/{state}", str(tmp_path / "out"))
            assert (tmp_path / "out").read_text() == "copied\n"
        assert (_mount_point(daemon, "dir") / state).read_text() == "copied\n"
        refused = daemon.docker("cp", str(tmp_path / "in"), "still:/ro/x")
        assert "mounted volume is marked read-only" in refused.stderr
        refused = daemon.docker("cp", str(tmp_path / "in"), "still:/etc/x")
        assert "container rootfs is marked read-only" in refused.stderr
        if state == "created":
            daemon.must("start", "still")
    # `diff` and `export` leave volumes out.
    assert {line[2:] for line in daemon.must("diff", "still").splitlines()} == {"/data", "/data/d", "/data/k", "/ro"}
    daemon.must("stop", "-t", "0", "still")
    exported = subprocess.run([*daemon.command("export", "still")], capture_output=True, check=True).stdout
    names = subprocess.run(["tar", "-t"], input=exported, capture_output=True, check=True).stdout.decode().split()
    assert [name for name in names if name.startswith("data")] == ["data/", "data/d/", "data/k/"]
    # A file session of a stopped container gives way to a container that runs.
    assert daemon.shell("-v", "disk:/k", "ls /k").stdout.split() == ["created", "running"]


def test_volumes_outlive_the_daemon_and_its_kill(daemon: Daemon) -> None:
    daemon.must(
        "run",
        "-d",
        "--name",
        "stays",
        "-v",
        "alive:/a",
        "busybox",
        "sh",
        "-c",
        "while :; do date >> /a/log; sleep 0.2; done",
    )
    daemon.kill()
    daemon.start()
    assert "alive" in daemon.must("volume", "ls", "-q").split()
    before = daemon.must("exec", "stays", "cat", "/a/log")
    time.sleep(1)
    assert len(daemon.must("exec", "stays", "cat", "/a/log")) > len(before)
    assert "volume is in use" in daemon.docker("volume", "rm", "alive").stderr
    daemon.must("restart", "-t", "0", "stays")
    daemon.must("exec", "stays", "test", "-s", "/a/log")


def test_events_of_a_volume(daemon: Daemon) -> None:
    since = str(time.time())
    identity = daemon.must("run", "-d", "-v", "told:/t", "busybox", "true").strip()
    daemon.must("wait", identity)
    daemon.must("rm", identity)
    daemon.must("volume", "rm", "told")
    said = daemon.must(
        "events",
        "--since",
        since,
        "--until",
        str(time.time()),
        "--filter",
        "type=volume",
        "--format",
        "{{.Action}} {{.Actor.ID}}",
    )
    assert said.split("\n")[:-1] == ["create told", "mount told", "unmount told", "destroy told"]


def test_no_virtiofsd_process_is_left(daemon: Daemon) -> None:
    assert daemon.shell("-v", "gone:/g", "true").returncode == 0
    deadline = time.monotonic() + 60
    while (
        str(daemon.root)
        in subprocess.run(["pgrep", "-af", "virtiofsd"], capture_output=True, text=True, check=False).stdout
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert str(daemon.root) not in Path("/proc/self/mounts").read_text()
