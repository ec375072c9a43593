"""Blobs of layers: bounded, found by their digests, kept over a restart."""

from pathlib import Path

from appliance.image.known_blobs import Blob, KnownBlobs
from appliance.store import Database


async def test_known_blobs_are_bounded_and_the_latest_is_first(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "state.db") as database:
        blobs = KnownBlobs(database)
        for number in range(30):
            await blobs.learn("sha256:x", Blob(f"sha256:{number}", 1, "", f"repository{number}"))
        new = Blob("sha256:new", 1, "", "repository20")
        await blobs.learn("sha256:x", new)
        known = blobs.of("sha256:x")
        assert len(known) == 20
        assert known[0] == new
        assert [blob.repository for blob in known].count("repository20") == 1
        assert blobs.find("sha256:new") == ("sha256:x", new)
        # The digest that repository20 had before, and those beyond the bound.
        assert blobs.find("sha256:20") is blobs.find("sha256:0") is None
        assert KnownBlobs(database).of("sha256:x") == known
        assert KnownBlobs(database).find("sha256:new") == ("sha256:x", new)


async def test_two_repositories_have_the_same_blob(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "state.db") as database:
        blobs = KnownBlobs(database)
        for repository in ("one", "two"):
            await blobs.learn("sha256:x", Blob("sha256:b", 1, "", repository))
        await blobs.learn("sha256:x", Blob("sha256:c", 1, "", "one"))
        assert blobs.find("sha256:b") == ("sha256:x", Blob("sha256:b", 1, "", "two"))
        blobs.forget("sha256:x")
        assert blobs.find("sha256:b") is blobs.find("sha256:c") is None
        assert blobs.of("sha256:x") == []
