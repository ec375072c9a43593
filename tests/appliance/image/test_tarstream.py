"""Tars as streams, against Python's tarfile and against hostile bytes."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ProtocolError
from appliance.image.tarstream import Entry, entries
from tests.archives import Tar


def _read(archive: bytes) -> list[tuple[Entry, bytes]]:
    source = io.BytesIO(archive)
    return [(entry, source.read(entry.stored)) for entry in entries(source.read)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_format_as_tarfile_writes_it(form: int) -> None:
    long = "folder/" * 20 + "name"
    archive = (
        Tar(form)
        .add("plain", b"x" * 1000, mode=0o4755, uid=7, gid=8, mtime=1_500_000_000)
        .add(long if form != tarfile.USTAR_FORMAT else "short", b"")
        .add("link", kind=tarfile.SYMTYPE, linkname="y" * (200 if form != tarfile.USTAR_FORMAT else 90))
        .add("device", kind=tarfile.CHRTYPE, devmajor=5, devminor=1)
        .add("folder", kind=tarfile.DIRTYPE)
        .bytes()
    )
    found = _read(archive)
    assert [(entry.kind, entry.size) for entry, _ in found] == [
        (b"0", 1000),
        (b"0", 0),
        (b"2", 0),
        (b"3", 0),
        (b"5", 0),
    ]
    plain, data = found[0]
    assert data == b"x" * 1000
    assert (plain.name, plain.mode, plain.uid, plain.gid) == (b"plain", 0o4755, 7, 8)
    assert plain.mtime_ns == 1_500_000_000 * 10**9
    assert len(found[2][0].link) >= 90
    assert (found[3][0].major, found[3][0].minor) == (5, 1)


def test_pax_fields_and_extended_attributes() -> None:
    tar = Tar().add("x", b"", pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "5.25", "uid": "4000000000"})
    (entry, _), *_ = _read(tar.bytes())
    assert (entry.xattrs, entry.mtime_ns, entry.uid) == ({b"user.a": b"b"}, 5_250_000_000, 4_000_000_000)


@pytest.mark.parametrize("form", ["--format=gnu", "--format=pax"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, form: str) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for offset in range(40):
            file.seek(offset << 20)
            file.write(b"data")
    command = ["tar", "-C", str(tmp_path), "--sparse", form, "-cf", "-", "sparse"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    ((entry, data),) = _read(archive)
    assert entry.name == b"sparse"
    assert entry.size == (39 << 20) + 4
    assert entry.pieces is not None
    whole, position = bytearray(entry.size), 0
    for offset, length in entry.pieces:
        whole[offset : offset + length] = data[position : position + length]
        position += length
    assert bytes(whole) == (tmp_path / "sparse").read_bytes()


def _with_field(start: int, value: bytes) -> bytes:
    """A header with a changed field and a right checksum."""
    header = bytearray(Tar().add("file", b"").bytes()[:512])
    header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize(
    "archive",
    [
        b"x" * 512,
        Tar().add("a", b"x" * 2000).bytes()[:1500],
        Tar().add("a", b"").bytes()[:300],
        _with_field(124, b"7" * 11),
        _with_field(124, b"\xff" * 12),
        _with_field(124, b"zzzz"),
        Tar().add("a", b"", pax_headers={"size": "-5"}).bytes(),
        Tar().add("a", b"", pax_headers={"size": "x"}).bytes(),
        Tar().add("a", b"", pax_headers={"path": "x" * 5000}).bytes(),
        Tar().add("a", b"", pax_headers={"uid": "-1"}).bytes(),
        Tar().add("a", b"", pax_headers={"mtime": "y"}).bytes(),
        Tar().add("a", b"", pax_headers={"GNU.sparse.size": "10", "GNU.sparse.map": "5,1,0,1"}).bytes(),
        Tar().add("a", b"", pax_headers={"GNU.sparse.major": "0", "GNU.sparse.map": "0,1"}).bytes(),
        Tar().add("a", b"", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": "10"}).bytes(),
        Tar().add("a", b"", pax_headers={"comment": "x" * (2 << 20)}).bytes(),
    ],
)
def test_bad_archives(archive: bytes) -> None:
    with pytest.raises(ProtocolError):
        _read(archive)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_of_a_byte_is_an_archive_or_an_error(data: st.DataObject) -> None:
    archive = bytearray(Tar().add("a", b"x" * 600, pax_headers={"SCHILY.xattr.user.a": "b"}).add("b", b"y").bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    try:
        for entry, _ in _read(bytes(archive)):
            assert entry.stored >= 0
    except ProtocolError:
        pass
