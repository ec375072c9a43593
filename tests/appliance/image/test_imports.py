"""`docker import`."""

import gzip
from pathlib import Path

import pytest

from appliance.errors import InvalidParameter, ProtocolError
from appliance.image.imports import import_tar
from appliance.image.platform import Platform
from appliance.image.reference import parse_reference
from tests.appliance.image.test_pull import opened_store
from tests.archives import Pieces, Tar

_TAR = Tar().add("file", b"content" * 3000).bytes()


async def test_a_tar_becomes_an_image_of_one_layer(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        record = await import_tar(
            store,
            Pieces(gzip.compress(_TAR)),
            parse_reference("app:v1"),
            "a message",
            ["CMD run", "ENV A=b"],
            Platform("linux", "arm64"),
        )
        assert store.get("app:v1") is record
        config = store.config(record.id)
        assert (config.comment, config.platform) == ("a message", Platform("linux", "arm64"))
        assert (config.config.cmd, config.config.env) == (["/bin/sh", "-c", "run"], ["A=b"])
        assert config.history is not None
        assert [entry.comment for entry in config.history] == ["a message"]
        (diff_id,) = config.diff_ids
        assert b"".join(store.tar_of(diff_id)) == _TAR
    async with opened_store(tmp_path) as store:
        assert store.get("app:v1").id == record.id


async def test_without_a_name_it_has_only_its_id(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        record = await import_tar(store, Pieces(_TAR), None, "", [], Platform())
        assert record.references == []
        assert store.get(record.id) is record


async def test_a_wrong_change_or_tar_leaves_nothing(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        with pytest.raises(InvalidParameter, match="RUN is not a valid change command"):
            await import_tar(store, Pieces(_TAR), None, "", ["RUN x"], Platform())
        with pytest.raises(ProtocolError):
            await import_tar(store, Pieces(b"not a tar" * 1000), None, "", [], Platform())
        assert store.all() == []
        assert list((tmp_path / "layers").iterdir()) == []
