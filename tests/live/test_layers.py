"""Layers as the guest's kernel sees them, through `docker load` and `docker run`."""

import gzip
import hashlib
import os
import struct
import tarfile

import pytest

from tests.archives import Tar
from tests.live.daemon import Daemon
from tests.live.images import busybox_layer, image_archive
from tests.steps import peak_rss

pytestmark = pytest.mark.live


def _load(daemon: Daemon, name: str, *layers: bytes) -> None:
    config: dict[str, object] = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
    daemon.must("load", stdin=image_archive([busybox_layer(), *layers], config, name))


def test_names_modes_owners_times_links_and_devices(daemon: Daemon) -> None:
    layer = Tar()
    layer.add("d", kind=tarfile.DIRTYPE, mode=0o1750, uid=70000, gid=12, mtime=1_000_000_000)
    long = "n" * 255
    layer.add(f"d/{long}", b"long", mode=0o4755, uid=3, gid=4, mtime=1_700_000_000)
    layer.add("d/späte Zeit\n", b"x", mode=0o600, mtime=4_200_000_000)
    layer.add("d/hard", kind=tarfile.LNKTYPE, linkname=f"d/{long}")
    layer.add("d/soft", kind=tarfile.SYMTYPE, linkname="../etc/passwd", mode=0o777)
    layer.add("d/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    layer.add("d/disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=70000, mode=0o660)
    layer.add("d/pipe", kind=tarfile.FIFOTYPE, mode=0o640)
    _load(daemon, "layers:names", layer.bytes())
    script = r"cd /d; stat -c '%n|%a|%u|%g|%Y|%F|%h|%t,%T' . * | tr '\n' '~'; readlink soft; cat hard; echo x > null"
    shown, _, rest = daemon.must("run", "--rm", "layers:names", "sh", "-c", script).rpartition("~")
    assert rest.split("\n") == ["../etc/passwd", "long"]
    found = dict(line.split("|", 1) for line in shown.replace("Zeit~", "Zeit\n").split("~"))
    assert found["."].startswith("1750|70000|12|1000000000|directory")
    assert found[long] == "4755|3|4|1700000000|regular file|2|0,0"
    assert found["hard"] == found[long]
    assert found["späte Zeit\n"].startswith("600|0|0|4200000000|regular file|1")
    assert found["soft"].startswith("777|")
    assert found["null"].split("|")[4:] == ["character special file", "1", "1,3"]
    assert found["disk"].split("|")[4:] == ["block special file", "1", "103,11170"]
    assert found["pipe"].split("|")[4] == "fifo"
    assert "640" in found["pipe"]


def test_a_file_capability_is_given_to_the_process_that_executes_the_file(daemon: Daemon) -> None:
    """security.capability travels as a PAX record of raw bytes, and the guest's kernel acts on it."""
    with open("/bin/busybox", "rb") as file:
        program = file.read()
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep
    layer = Tar()
    record = capability.decode("utf-8", "surrogateescape")
    layer.add("cap", kind=tarfile.DIRTYPE, mode=0o755)
    layer.add("cap/busybox", program, mode=0o755, pax_headers={"SCHILY.xattr.security.capability": record})
    _load(daemon, "layers:caps", layer.bytes())
    command = ["run", "--rm", "--user", "1000", "layers:caps"]
    plain = daemon.must(*command, "grep", "CapEff", "/proc/self/status")
    given = daemon.must(*command, "/cap/busybox", "grep", "CapEff", "/proc/self/status")
    assert int(plain.split()[1], 16) == 0
    assert int(given.split()[1], 16) == 1 << 10


def test_big_and_sparse_files(daemon: Daemon) -> None:
    layer = Tar()
    dense = os.urandom(5_000_001)
    holes = bytes(64 << 20) + b"end"
    layer.add("dense", dense)
    layer.add("holes", holes)
    _load(daemon, "layers:big", layer.bytes())
    sums = daemon.must("run", "--rm", "layers:big", "sha256sum", "/dense", "/holes").split()
    assert sums[0] == hashlib.sha256(dense).hexdigest()
    assert sums[2] == hashlib.sha256(holes).hexdigest()


def test_a_hundred_thousand_files(daemon: Daemon) -> None:
    layer = Tar()
    for folder in range(100):
        layer.add(f"many/{folder}", kind=tarfile.DIRTYPE, mode=0o755)
        for file in range(1000):
            layer.add(f"many/{folder}/{file}", b"%d" % file)
    _load(daemon, "layers:many", layer.bytes())
    script = (
        "ls /many | wc -l; ls /many/7 | wc -l; find /many -type f | wc -l; cat /many/99/999 /many/0/0; ls /many/100"
    )
    done = daemon.docker("run", "--rm", "layers:many", "sh", "-c", script)
    assert done.stdout.split() == ["100", "1000", "100000", "9990"]
    assert "No such file" in done.stderr


def test_names_and_hard_links_through_links_of_the_same_layer(daemon: Daemon) -> None:
    """As a real dockerd unpacks them: in a chroot, where the kernel follows the links of the layer."""
    below, layer = Tar(), Tar()
    below.add("low/old", b"below").add("low/kept", b"below").add("ldir", kind=tarfile.SYMTYPE, linkname="low")
    for folder in ("usr", "usr/bin", "real"):
        layer.add(f"l/{folder}", kind=tarfile.DIRTYPE, mode=0o755)
    layer.add("l/bin", kind=tarfile.SYMTYPE, linkname="usr/bin").add("l/bin/tool", b"tool")
    layer.add("l/lib", kind=tarfile.SYMTYPE, linkname="/l/../../l/usr").add("l/lib/so", b"so")
    layer.add("l/real/old", b"old").add("l/sl", kind=tarfile.SYMTYPE, linkname="real")
    layer.add("l/hl", kind=tarfile.LNKTYPE, linkname="l/sl/old").add("l/hs", kind=tarfile.LNKTYPE, linkname="l/sl")
    # A whiteout through a link, and a directory that replaces one of the layer below.
    layer.add("s", kind=tarfile.SYMTYPE, linkname="low").add("s/.wh.old")
    # A link of a lower layer is not followed.
    layer.add("ldir/own", b"own")
    _load(daemon, "layers:through", below.bytes(), layer.bytes())
    script = (
        "cd /l; for l in bin lib sl hs; do readlink $l; done; cat usr/bin/tool usr/so hl; echo; stat -c %h real/old sl;"
        "ls -A /low; ls -A /ldir; test -d /ldir -a ! -L /ldir && echo directory"
    )
    shown = daemon.must("run", "--rm", "layers:through", "sh", "-c", script).split()
    assert shown[:4] == ["usr/bin", "/l/../../l/usr", "real", "real"]
    assert shown[4:] == ["toolsoold", "2", "2", "kept", "own", "directory"]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([("up", tarfile.LNKTYPE, "low/f")], "link /low/f /up: no such file or directory"),
        ([("a", tarfile.SYMTYPE, "a"), ("a/f", tarfile.REGTYPE, "")], "open /a/f: too many levels of symbolic links"),
        ([("a", tarfile.REGTYPE, ""), ("a/f", tarfile.REGTYPE, "")], "open /a/f: not a directory"),
        ([("low/.wh..", tarfile.REGTYPE, "")], "invalid whiteout name"),
    ],
)
def test_what_docker_refuses_is_refused_in_its_words(
    daemon: Daemon, names: list[tuple[str, bytes, str]], text: str
) -> None:
    layer = Tar()
    for name, kind, link in names:
        layer.add(name, kind=kind, linkname=link)
    assert text in daemon.docker("import", "-", "layers:refused", stdin=layer.bytes()).stderr


def test_a_bomb_is_refused_and_the_daemon_stays_small(daemon: Daemon) -> None:
    """A few hundred KiB stand for 130 MiB of extended attributes, and for a GiB that is not read any more."""
    values = {f"SCHILY.xattr.user.{name}": "v" * 60_000 for name in "ab"}
    entry = Tar().add("f", pax_headers=values).bytes().rstrip(b"\0")
    member = gzip.compress(entry + bytes(-len(entry) % 512))
    before = peak_rss(daemon.pid)
    shown = daemon.docker("import", "-", "layers:bomb", stdin=member * 10_000)
    assert "invalid tar: more than 128 MiB of names and extended attributes" in shown.stderr
    assert peak_rss(daemon.pid) < before + (32 << 20)


def test_whiteouts_hide_what_is_below(daemon: Daemon) -> None:
    below, above = Tar(), Tar()
    for name in ("a/one", "a/two", "b/one", "b/two"):
        below.add(name, b"below")
    above.add("a/.wh.one")
    above.add("b", kind=tarfile.DIRTYPE, mode=0o755)
    above.add("b/.wh..wh..opq")
    above.add("b/three", b"above")
    _load(daemon, "layers:white", below.bytes(), above.bytes())
    assert daemon.must("run", "--rm", "layers:white", "sh", "-c", "ls /a /b").split() == ["/a:", "two", "/b:", "three"]
    # Files that the container deletes and creates again in its own layer.
    script = "rm -r /b && mkdir /b && touch /b/mine && ls -A /b && mv /a /c && ls /c"
    assert daemon.must("run", "--rm", "layers:white", "sh", "-c", script).split() == ["mine", "two"]
