"""A layer's tar, made again from its disk and its recipe."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from appliance.errors import ProtocolError
from appliance.image.layer import convert_untrusted
from appliance.image.recipe import tar_of, tar_size_of
from tests.archives import Tar

_TARS = {
    "nothing": Tar().bytes(),
    "files": Tar().add("small", b"x" * 10).add("large", os.urandom(300_000)).add("empty", b"").bytes(),
    "names": Tar(tarfile.GNU_FORMAT)
    .add("name/" * 60 + "n", b"data")
    .add("d", kind=tarfile.DIRTYPE, mode=0o700)
    .bytes(),
    "links": Tar()
    .add("a", b"a")
    .add("b", kind=tarfile.LNKTYPE, linkname="a")
    .add("c", kind=tarfile.SYMTYPE, linkname="x" * 200)
    .bytes(),
    "whiteouts": Tar().add("d/.wh.gone", b"").add("d/.wh..wh..opq", b"content of a whiteout").bytes(),
    "replaced": Tar().add("a", b"first" * 2000).add("a", b"second" * 2000).bytes(),
    "padding": Tar().add("a", b"data").bytes() + bytes(50_000) + b"not zero",
}


@pytest.mark.parametrize("kind", _TARS)
@pytest.mark.parametrize("piece", [512, 10_000, 1 << 20])
def test_the_tar_is_the_same_byte_for_byte(tmp_path: Path, kind: str, piece: int) -> None:
    disk, recipe = tmp_path / "disk", tmp_path / "recipe"
    source = io.BytesIO(_TARS[kind])
    layer = convert_untrusted(lambda: source.read(piece), disk, recipe)
    assert b"".join(tar_of(recipe, disk)) == _TARS[kind]
    assert layer.diff_id == layer.digest == f"sha256:{hashlib.sha256(_TARS[kind]).hexdigest()}"
    assert layer.disk_size == disk.stat().st_size
    assert layer.tar_size == tar_size_of(recipe) == len(_TARS[kind])
    for start in (1, 512, 1500, len(_TARS[kind]) - 1, len(_TARS[kind])):
        assert b"".join(tar_of(recipe, disk, start)) == _TARS[kind][start:]


def test_the_contents_are_stored_once(tmp_path: Path) -> None:
    disk, recipe = tmp_path / "disk", tmp_path / "recipe"
    source = io.BytesIO(Tar().add("file", os.urandom(1 << 20)).bytes())
    layer = convert_untrusted(lambda: source.read(1 << 16), disk, recipe)
    assert layer.size == 1 << 20
    assert recipe.stat().st_size < 1000


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_damaged_recipe_or_disk_is_an_error(tmp_path: Path, cut: float) -> None:
    disk, recipe = tmp_path / "disk", tmp_path / "recipe"
    source = io.BytesIO(_TARS["files"])
    convert_untrusted(lambda: source.read(4096), disk, recipe)
    kept = recipe.read_bytes()
    recipe.write_bytes(kept[: int(len(kept) * cut)])
    with pytest.raises(ProtocolError, match="recipe is damaged"):
        assert b"".join(tar_of(recipe, disk)) == _TARS["files"], "a short tar must not look whole"
    recipe.write_bytes(kept)
    os.truncate(disk, 4096)
    with pytest.raises(ProtocolError, match="disk is damaged"):
        list(tar_of(recipe, disk))
