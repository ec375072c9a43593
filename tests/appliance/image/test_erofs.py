"""The EROFS writer: fsck.erofs and the unpacked tree are the oracles; hostile archives end in ProtocolError."""

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ProtocolError
from appliance.image.layer import Layer, convert_untrusted
from appliance.image.recipe import tar_of
from tests.archives import Tar


def convert(data: bytes, target: Path, piece: int = 10_007) -> Layer:
    source = io.BytesIO(data)
    return convert_untrusted(lambda: source.read(piece), target, target.with_name(f"{target.name}.recipe"))


def check(image: Path) -> None:
    """fsck.erofs finds nothing to complain of."""
    done = subprocess.run(["fsck.erofs", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def inspect(image: Path, path: str) -> str:
    """dump.erofs's words about one file."""
    return subprocess.run(
        ["dump.erofs", f"--path={path}", str(image)], capture_output=True, text=True, check=True
    ).stdout


def extract(image: Path, target: Path) -> Path:
    done = subprocess.run(
        ["fsck.erofs", f"--extract={target}", str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_names_modes_owners_times_links_devices(tmp_path: Path) -> None:
    long = "d" * 120 + "/" + "f" * 200
    tar = Tar()
    tar.add("dir/", kind=tarfile.DIRTYPE, mode=0o1777, mtime=1_600_000_000)
    tar.add("dir/file", b"hello", mode=0o4755, uid=12, gid=3_000_000_000, mtime=1_700_000_000.25)
    tar.add("dir/hard", kind=tarfile.LNKTYPE, linkname="dir/file")
    tar.add("dir/soft", kind=tarfile.SYMTYPE, linkname="../" + "x" * 300)
    tar.add("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
    tar.add("disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=70_000)
    tar.add("pipe", kind=tarfile.FIFOTYPE)
    tar.add(long, b"deep")
    tar.add("./dir/../abs/./odd", b"odd")
    tar.add("/absolute", b"abs")
    image = tmp_path / "image"
    convert(tar.bytes(), image)
    check(image)
    root = extract(image, tmp_path / "out")
    # fsck.erofs unpacks neither hard links nor setuid: these are asked of the image itself.
    shown = inspect(image, "/dir/file")
    assert "Uid: 12   Gid: 3000000000  Access: 0755" in shown  # dump.erofs masks setuid
    assert "Links: 2" in shown
    assert ".250000000" in shown
    assert inspect(image, "/dir/hard").partition("NID")[2] == shown.partition("NID")[2]
    assert os.readlink(root / "dir/soft") == "../" + "x" * 300
    assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o1777
    assert (root / "null").lstat().st_rdev == os.makedev(1, 3)
    assert (root / "disk").lstat().st_rdev == os.makedev(259, 70_000)
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    assert (root / long).read_bytes() == b"deep"
    assert (root / "abs/odd").read_bytes() == b"odd"
    assert (root / "absolute").read_bytes() == b"abs"


@pytest.mark.parametrize(
    "size", [0, 1, 2047, 2048, 2049, 4031, 4032, 4095, 4096, 4097, 6144, 6145, 1 << 20, (1 << 20) + 1]
)
def test_every_size_of_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    convert(Tar().add("file", data).add("next", b"after").bytes(), tmp_path / "image")
    root = extract(tmp_path / "image", tmp_path / "out")
    assert (root / "file").read_bytes() == data
    assert (root / "next").read_bytes() == b"after"


def test_whiteouts_and_opaque_directories_become_overlays(tmp_path: Path) -> None:
    tar = Tar().add("a/.wh.gone", b"").add("b/.wh..wh..opq", b"").add("b/new", b"n").add(".wh..wh.plnk", b"")
    convert(tar.bytes(), tmp_path / "image")
    check(tmp_path / "image")
    assert "char dev" in inspect(tmp_path / "image", "/a/gone")
    root = extract(tmp_path / "image", tmp_path / "out")
    assert (root / "a/gone").lstat().st_rdev == 0
    assert not (root / ".wh..wh.plnk").exists()
    raw = (tmp_path / "image").read_bytes()
    assert b"overlay.opaque" in raw


def test_sparse_and_big_files_stay_sparse(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        file.truncate(5 << 30)
        file.seek(3 << 30)
        file.write(b"in the middle")
    for form in ("gnu", "pax"):
        archive = subprocess.run(
            ["tar", "-C", str(source), "--sparse", f"--format={form}", "-cf", "-", "."], capture_output=True, check=True
        ).stdout
        image = tmp_path / f"image-{form}"
        convert(archive, image)
        check(image)
        assert image.stat().st_size > 5 << 30
        assert image.stat().st_blocks * 512 < 1 << 20


@pytest.mark.slow  # its size is the point
def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    tar = Tar(tarfile.USTAR_FORMAT)
    for number in range(100_000):
        tar.add(f"d{number % 100}/f{number}", b"%d" % number)
    convert(tar.bytes(), tmp_path / "image", 1 << 20)
    check(tmp_path / "image")
    root = extract(tmp_path / "image", tmp_path / "out")
    assert (root / "d42/f4242").read_bytes() == b"4242"
    assert sum(len(files) for _, _, files in os.walk(root)) == 100_000


def test_compressions_and_digests(tmp_path: Path) -> None:
    plain = Tar().add("file", b"x" * 100_000).bytes() + bytes(5000)
    blobs = {
        "plain": plain,
        "gzip": gzip.compress(plain[:50_000]) + gzip.compress(plain[50_000:]),
        "zstd": zstd.compress(plain),
    }
    for name, blob in blobs.items():
        layer = convert(blob, tmp_path / name)
        assert layer.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
        assert layer.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
        assert layer.size == 100_000


def test_the_last_of_two_entries_wins(tmp_path: Path) -> None:
    tar = Tar().add("x", b"first").add("y", kind=tarfile.LNKTYPE, linkname="x").add("x", b"second")
    convert(tar.bytes(), tmp_path / "image")
    check(tmp_path / "image")
    root = extract(tmp_path / "image", tmp_path / "out")
    assert ((root / "x").read_bytes(), (root / "y").read_bytes()) == (b"second", b"first")


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        (Tar().add("../../etc/passwd", b"x").bytes(), "outside of the layer"),
        (Tar().add("a/../../x", b"x").bytes(), "outside of the layer"),
        (Tar().add("x", kind=tarfile.LNKTYPE, linkname="../../etc/shadow").bytes(), "outside of the layer"),
        (Tar().add("x", kind=tarfile.LNKTYPE, linkname="nothing").bytes(), "link /nothing /x: no such file"),
        (Tar().add("big", b"x" * 10_000).bytes()[:5000], "unexpected EOF"),
        (b"\x01" * 2048, "invalid tar header"),
        (gzip.compress(Tar().add("x", b"y" * 99_999).bytes())[:-60], "EOF"),
        (b"\x1f\x8b" + b"garbage" * 300, "decompressed"),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path, archive: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        convert(archive, tmp_path / "image")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bytes_never_do_worse_than_a_protocol_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = bytearray(
        Tar().add("dir/file", b"hello" * 300, mtime=1.5, uname="ü").add("l", kind=tarfile.SYMTYPE, linkname="t").bytes()
    )
    for _ in range(data.draw(st.integers(1, 8))):
        base[data.draw(st.integers(0, 3500))] = data.draw(st.integers(0, 255))
    target = tmp_path_factory.mktemp("flip") / "image"
    try:
        convert(bytes(base), target)
    except ProtocolError:
        assert not target.exists()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_tar_can_be_made_again(data: st.DataObject) -> None:
    """Whatever the archiver, the order and the rest behind the archive."""
    form = data.draw(st.sampled_from((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    tar = Tar(form)
    for number in range(data.draw(st.integers(0, 6))):
        size = data.draw(st.sampled_from((0, 1, 511, 512, 2047, 2049, 4095, 4096, 4097, 70_000)))
        name = data.draw(st.sampled_from((f"f{number}", "same", "d/" + "n" * 90 + str(number))))
        tar.add(name, os.urandom(size), mtime=data.draw(st.integers(0, 1 << 31)))
    plain = tar.bytes() + data.draw(st.binary(max_size=3000))
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        layer = convert(
            gzip.compress(plain) if data.draw(st.booleans()) else plain,
            disk,
            data.draw(st.sampled_from((7, 513, 100_000))),
        )
        assert b"".join(tar_of(Path(f"{disk}.recipe"), disk)) == plain
        assert layer.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"


def test_a_recipe_is_small(tmp_path: Path) -> None:
    tar = Tar()
    for number in range(2000):
        tar.add(f"some/folder/file{number}", os.urandom(3000))
    disk = tmp_path / "disk"
    convert(tar.bytes(), disk)
    assert Path(f"{disk}.recipe").stat().st_size < disk.stat().st_size // 20
