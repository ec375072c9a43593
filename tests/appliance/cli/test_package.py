"""OVA files: complete ones are read, others are refused."""

import io
import tarfile
from pathlib import Path

import pytest

from appliance.cli.package import OvaFile
from appliance.errors import InvalidParameter
from build.ova.pack import pack


@pytest.fixture(scope="module")
def ova(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ova")
    (folder / "system").write_bytes(b"system".ljust(1 << 20, b"\0"))
    pack("vch", folder / "system", folder, folder / "vch.ova")
    return folder / "vch.ova"


async def test_files_of_an_ova(ova: Path) -> None:
    package = OvaFile(ova)
    assert package.descriptor.startswith("<?xml")
    name = "vch-system.vmdk"
    pieces = [piece async for piece in package.pieces(name, 1000)]
    assert [len(piece) for piece in pieces[:-1]] == [1000] * (len(pieces) - 1)
    with tarfile.open(ova) as archive:
        file = archive.extractfile(name)
        assert file is not None
        assert b"".join(pieces) == file.read()
    assert package.length(name) == sum(map(len, pieces))
    with pytest.raises(InvalidParameter, match="no file x"):
        package.length("x")


def _changed(ova: Path, target: Path, name: str, content: bytes | None) -> Path:
    """The OVA with another content of a file, or without the file."""
    with tarfile.open(ova) as old, tarfile.open(target, "w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            data = file.read()
            if member.name == name:
                if content is None:
                    continue
                data, member.size = content, len(content)
            new.addfile(member, io.BytesIO(data))
    return target


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("vch-system.vmdk", b"other", r"vch-system\.vmdk does not have the digest of the manifest"),
        ("vch.ovf", None, r"expected one \.ovf file"),
        ("vch.mf", None, r"expected one \.mf file"),
        ("vch.mf", b"nonsense\n", "malformed line in the manifest: 'nonsense'"),
        ("vch.mf", b"", r"the manifest has no digest of vch\.ovf"),
    ],
)
def test_incomplete_ovas_are_refused(ova: Path, tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    with pytest.raises(InvalidParameter, match=f"--ova .*: {problem}"):
        OvaFile(_changed(ova, tmp_path / "x.ova", name, content))


def test_a_truncated_or_missing_file_is_refused(ova: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.ova").write_bytes(ova.read_bytes()[:-30_000])
    for path in (tmp_path / "torn.ova", tmp_path / "none.ova"):
        with pytest.raises(InvalidParameter, match="--ova "):
            OvaFile(path)
