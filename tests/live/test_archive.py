"""docker cp: files into and out of containers, running or not."""

import concurrent.futures
import gzip
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def box(daemon: Daemon) -> Iterator[str]:
    daemon.must("run", "-d", "--name", "cpbox", "--tmpfs", "/small:size=1m", "busybox", "sleep", "100000")
    daemon.must(
        "exec",
        "cpbox",
        "sh",
        "-c",
        "mkdir -p /d/sub; echo a > /d/f; ln -s f /d/link; ln -s /d /way; ln /d/f /d/hard; chmod 4750 /d/f",
    )
    yield "cpbox"
    daemon.must("rm", "-f", "cpbox")


@pytest.fixture
def still(daemon: Daemon) -> Iterator[str]:
    """A container that was never started."""
    daemon.must("create", "--name", "cpstill", "busybox", "cat", "/in/file")
    yield "cpstill"
    daemon.must("rm", "-f", "cpstill")


def _machine(daemon: Daemon, name: str) -> Path:
    container = daemon.must("inspect", name, "--format", "{{.Id}}").strip()
    return daemon.root / "exec/machines" / (f"files{container}"[:64])


def _put(daemon: Daemon, name: str, path: str, data: bytes, query: str = "") -> tuple[int, str]:
    command = [
        "curl",
        "-s",
        "-w",
        "\n%{http_code}",
        "-X",
        "PUT",
        "--unix-socket",
        str(daemon.socket),
        "--data-binary",
        "@-",
        f"http://d/containers/{name}/archive?path={path}{query}",
    ]
    answer = subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode()
    text, _, code = answer.rpartition("\n")
    return int(code), text


def _tar(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def test_cp_out_as_a_stream(daemon: Daemon, box: str) -> None:
    done = subprocess.run(daemon.command("cp", f"{box}:/d", "-"), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        found = {one.name: (one.type, one.mode & 0o7777, one.linkname) for one in archive}
    assert found == {
        "d": (tarfile.DIRTYPE, 0o755, ""),
        "d/f": (tarfile.REGTYPE, 0o4750, ""),
        "d/hard": (tarfile.LNKTYPE, 0o4750, "d/f"),
        "d/link": (tarfile.SYMTYPE, 0o777, "f"),
        "d/sub": (tarfile.DIRTYPE, 0o755, ""),
    }


def test_links_are_copied_or_followed(daemon: Daemon, box: str, tmp_path: Path) -> None:
    daemon.must("cp", f"{box}:/d/link", str(tmp_path / "as-it-is"))
    assert os.readlink(tmp_path / "as-it-is") == "f"
    daemon.must("cp", "-L", f"{box}:/d/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "a\n"
    daemon.must("cp", f"{box}:/way/sub", str(tmp_path))
    assert (tmp_path / "sub").is_dir()


def test_cp_in_through_a_link_that_stays_inside(daemon: Daemon, box: str, tmp_path: Path) -> None:
    """An absolute link is resolved in the container, not on the appliance."""
    (tmp_path / "new").write_text("new")
    daemon.must("exec", box, "ln", "-s", "/d/sub", "/abs")
    daemon.must("cp", str(tmp_path / "new"), f"{box}:/abs/")
    assert daemon.must("exec", box, "cat", "/d/sub/new") == "new"


def test_a_tree_there_and_back_is_the_same(daemon: Daemon, box: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(200):
        path = tree / f"dir{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 37))
        path.chmod(0o600 + number % 64)
        os.utime(path, (1_500_000_000 + number, 1_500_000_000 + number))
    (tree / "a name with spaces, \N{SNOWMAN} and 'quotes'").write_text("x")
    (tree / ("long" * 40)).write_text("y")
    for path in (one for one in tree.iterdir() if one.is_file()):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    daemon.must("cp", "-a", str(tree), f"{box}:/there")
    daemon.must("cp", "-a", f"{box}:/there", str(tmp_path / "back"))
    listing = [
        "sh",
        "-c",
        "find . -type f -printf '%p %m %s %T@ %U\\n' | sort; find . -type f | sort | xargs -d '\\n' cat | sha256sum",
    ]
    before, after = (
        subprocess.run(listing, cwd=at, capture_output=True, check=True).stdout for at in (tree, tmp_path / "back")
    )
    assert before == after


def test_stdin_compressed_and_owned_by_the_user(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "cpuser", "-u", "12:34", "busybox", "sleep", "1000")
    data = gzip.compress(_tar(_member("mine", uid=5, gid=6), data=b"content"))
    assert _put(daemon, "cpuser", "/tmp", data) == (200, "")
    assert daemon.must("exec", "cpuser", "stat", "-c", "%u:%g %s", "/tmp/mine") == "5:6 7\n"
    assert _put(daemon, "cpuser", "/tmp", data, "&copyUIDGID=1") == (200, "")
    assert daemon.must("exec", "cpuser", "stat", "-c", "%u:%g", "/tmp/mine") == "12:34\n"
    daemon.must("rm", "-f", "cpuser")


def test_the_files_of_the_kernel_are_not_walked(daemon: Daemon, box: str) -> None:
    done = subprocess.run(daemon.command("cp", f"{box}:/", "-"), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = archive.getnames()
    assert not [name for name in names if name.strip("/").startswith(("proc/", "sys/", "dev/"))]
    assert daemon.must("cp", f"{box}:/proc/version", "-")


def test_cp_into_and_out_of_a_stopped_container(daemon: Daemon, still: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before its start\n")
    assert _put(daemon, still, "/", _tar(_member("in", tarfile.DIRTYPE, mode=0o755))) == (200, "")
    daemon.must("cp", str(tmp_path / "file"), f"{still}:/in/file")
    daemon.must("cp", f"{still}:/in/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "before its start\n"
    # The container can start at once, and has the copied files. Afterwards a file session is possible again.
    assert daemon.must("start", "-a", still) == "before its start\n"
    assert "A /in/file" in daemon.must("diff", still)
    assert daemon.must("inspect", still, "--format", "{{.State.Status}} {{.State.Pid}}") == "exited 0\n"


@on_qemu
def test_file_sessions_share_a_vm_that_ends_when_idle(daemon: Daemon, still: str) -> None:
    machine = _machine(daemon, still)
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        outputs = list(pool.map(lambda _: daemon.docker("cp", f"{still}:/etc/passwd", "-").stdout, range(5)))
    assert all("root:x:0" in output for output in outputs)
    assert machine.exists()
    deadline = time.monotonic() + 60
    while machine.exists():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert daemon.must("ps", "-a", "--filter", f"name={still}", "--format", "{{.State}}") == "created\n"


def test_removal_does_not_wait_for_a_file_session(daemon: Daemon) -> None:
    daemon.must("create", "--name", "cpgone", "busybox", "true")
    machine = _machine(daemon, "cpgone")
    daemon.must("cp", "cpgone:/etc/passwd", "-")
    daemon.must("rm", "cpgone")
    assert not machine.exists()


def test_copied_files_outlive_a_kill_of_vchd(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("create", "--name", "kept", "busybox", "cat", "/one")
        assert _put(daemon, "kept", "/", _tar(_member("one"), data=b"safe\n")) == (200, "")
        daemon.kill()
        daemon.start()
        assert daemon.must("start", "-a", "kept") == "safe\n"
        daemon.must("rm", "kept")


# -- hostile archives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([_member("../out")], "outside"),
        ([_member("a/../../out")], "outside"),
        ([_member("hard", tarfile.LNKTYPE, "../etc/passwd")], "invalid hardlink"),
        ([_member("odd", b"V")], "unhandled tar header type"),
        ([_member("hard", tarfile.LNKTYPE, "nowhere")], "no such file"),
        ([_member("plain"), _member("plain/below")], "not a directory"),
    ],
)
def test_an_archive_that_climbs_is_refused(daemon: Daemon, box: str, members: list[tarfile.TarInfo], text: str) -> None:
    code, message = _put(daemon, box, "/tmp", _tar(*members))
    assert code == 400
    assert text in message
    assert "out" not in daemon.must("exec", box, "ls", "/").split()


def test_absolute_names_links_and_devices_stay_inside(daemon: Daemon, box: str) -> None:
    escape = [
        _member("/absolute"),
        _member("way", tarfile.SYMTYPE, "../../../../.."),
        _member("way/through"),
        _member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o600),
        _member("pipe", tarfile.FIFOTYPE, mode=0o600),
    ]
    assert _put(daemon, box, "/d/sub", _tar(*escape, data=b"x")) == (200, "")
    listing = daemon.must("exec", box, "ls", "-l", "/d/sub")
    assert "absolute" in listing
    assert "8,   0" in listing
    # The link led to the container's root, and not beyond it.
    assert daemon.must("exec", box, "cat", "/through") == "x"
    assert not Path("/through").exists()


def test_ten_thousand_entries_in_a_directory(daemon: Daemon, box: str) -> None:
    data = _tar(*(_member(f"many/{number:05}") for number in range(10_000)))
    assert _put(daemon, box, "/tmp", data) == (200, "")
    assert daemon.must("exec", box, "sh", "-c", "ls /tmp/many | wc -l") == "10000\n"
    daemon.must("exec", box, "rm", "-r", "/tmp/many")


def test_a_bomb_that_fills_the_disk(daemon: Daemon, box: str) -> None:
    code, message = _put(daemon, box, "/small", gzip.compress(_tar(_member("big"), data=bytes(64 << 20))))
    assert code >= 400
    assert "no space left" in message
    assert daemon.must("exec", box, "echo", "unharmed") == "unharmed\n"
    daemon.must("exec", box, "rm", "-f", "/small/big")


@pytest.mark.parametrize(
    "data", [b"\x1f\x8bnot gzip at all", b"x" * 5000, _tar(_member("cut"), data=b"y" * 5000)[:3000]]
)
def test_damaged_archives(daemon: Daemon, box: str, data: bytes) -> None:
    assert _put(daemon, box, "/tmp", data)[0] == 400


def test_a_claim_of_endless_meta_data(daemon: Daemon, box: str) -> None:
    header = _member("x", b"x")
    header.size = 1 << 33
    assert _put(daemon, box, "/tmp", header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))[0] == 400


def test_a_client_that_goes_away_half_way(daemon: Daemon, box: str) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        head = f"PUT /containers/{box}/archive?path=/tmp HTTP/1.1\r\nHost: d\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head.encode() + _tar(_member("half"), data=bytes(1 << 20))[: 1 << 19])
        time.sleep(0.3)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(f"GET /containers/{box}/archive?path=/bin HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        connection.recv(1000)
    deadline = time.monotonic() + 60
    # The guest's helpers go too.
    while len(daemon.must("top", box, "-eo", "pid,ppid,comm").splitlines()) != 2:
        assert time.monotonic() < deadline
    assert daemon.must("exec", box, "echo", "well") == "well\n"


def test_directories_are_not_put_over_files(daemon: Daemon, box: str, tmp_path: Path) -> None:
    query = "&noOverwriteDirNonDir=1"
    assert _put(daemon, box, "/d", _tar(_member("f", tarfile.DIRTYPE)), query)[0] == 400
    assert _put(daemon, box, "/d", _tar(_member("sub")), query)[0] == 400
    assert _put(daemon, box, "/d", _tar(_member("sub")))[0] == 200
    assert daemon.must("exec", box, "stat", "-c", "%F", "/d/sub") == "regular empty file\n"
