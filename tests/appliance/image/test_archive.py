"""Archives for `docker load`: within the room on the disk, and with a bounded index."""

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.errors import ProtocolError, Unavailable
from appliance.image import archive as module
from appliance.image.archive import Archive, receive
from tests.archives import Tar
from tests.steps import cpu_of_steps


async def _body(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def _archive(folder: Path, data: bytes) -> Archive:
    path = folder / "archive"
    path.write_bytes(data)
    return Archive(path)


async def test_an_archive_is_stored_without_its_compression(tmp_path: Path) -> None:
    data = Tar().add("file", bytes(100_000)).bytes()
    file = io.BytesIO()
    await receive(_body(gzip.compress(data)), file, tmp_path)
    assert file.getvalue() == data


async def test_an_archive_takes_no_more_than_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb: 64 KB that become 64 MiB. The reserve of the file system stays."""
    bomb = gzip.compress(bytes(64 << 20))
    with open(tmp_path / "spool", "w+b") as file:
        monkeypatch.setattr(module, "room_on", lambda _: (40 << 20) - file.tell())
        with cpu_of_steps() as steps, pytest.raises(Unavailable, match="no space left on device"):
            await receive(_body(bomb), file, tmp_path)
        assert file.tell() <= 40 << 20
    assert steps.longest < 0.05


def test_members_by_name(tmp_path: Path) -> None:
    tar = Tar().add("./a", b"one").add("d/b", b"two").add("hard", kind=tarfile.LNKTYPE, linkname="./a")
    tar.add("d/soft", kind=tarfile.SYMTYPE, linkname="../hard").add("device", kind=tarfile.CHRTYPE)
    archive = _archive(tmp_path, tar.bytes())
    for name, data in {"a": b"one", "d/b": b"two", "hard": b"one", "d/soft": b"one"}.items():
        assert archive.read_bytes(name) == data
        source = archive.source(name)
        assert (source(), source(), source()) == (data, b"", b"")
    assert not archive.has("device")


@pytest.mark.parametrize("target", ["loop", "missing"])
def test_links_that_lead_nowhere(tmp_path: Path, target: str) -> None:
    archive = _archive(tmp_path, (Tar().add("loop", kind=tarfile.SYMTYPE, linkname=target).bytes()))
    with pytest.raises(ProtocolError, match="invalid archive: loop is missing"):
        archive.read_bytes("loop")


@pytest.mark.parametrize("cut", [100, 700, 100_000])
def test_an_archive_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    with pytest.raises(ProtocolError, match="invalid archive: unexpected EOF"):
        _archive(tmp_path, (Tar().add("a", bytes(200_000)).bytes()[:cut]))


def test_the_index_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MEMBERS", 100)
    tar = Tar(tarfile.USTAR_FORMAT)
    for number in range(101):
        tar.add(str(number))
    with pytest.raises(ProtocolError, match="invalid archive: more than 100 files"):
        _archive(tmp_path, tar.bytes())
    monkeypatch.setattr(module, "_MAX_NAMES", 1 << 20)
    tar = Tar()
    for number in range(99):
        tar.add(f"{number}", pax_headers={"comment": "x" * (1 << 18)})
    data = tar.bytes()
    tracemalloc.start()
    _archive(tmp_path, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
