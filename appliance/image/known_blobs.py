"""Which compressed blobs stand for which layers: registries that have a layer need not get it again, and senders need not send it again."""

import msgspec

from appliance.store import Database

_MOST_BLOBS = 20


class Blob(msgspec.Struct, frozen=True):
    """A compressed layer. `repository` is the full name of a repository that has it, "" for a blob of a build; `size` is in bytes."""

    digest: str
    size: int
    media_type: str
    repository: str


class KnownBlobs:
    """The known blobs of each layer, at most one for each repository, 20 in all. Stored as rows of the kind `blob`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blobs: dict[str, list[Blob]] = {
            key: msgspec.json.decode(value, type=list[Blob]) for key, value in database.load("blob").items()
        }
        self._layers = {blob.digest: diff_id for diff_id, blobs in self._blobs.items() for blob in blobs}

    def of(self, diff_id: str) -> list[Blob]:
        """The blobs of a layer, the latest first."""
        return list(self._blobs.get(diff_id, ()))

    def find(self, digest: str) -> tuple[str, Blob] | None:
        """The layer's diff ID and the blob with this digest, None for an unknown digest."""
        diff_id = self._layers.get(digest, "")
        found = (blob for blob in self._blobs.get(diff_id, ()) if blob.digest == digest)
        return next(((diff_id, blob) for blob in found), None)

    async def learn(self, diff_id: str, blob: Blob) -> None:
        """Remember a blob of a layer; return when it is on disk."""
        known = self._blobs.get(diff_id, [])
        kept = [blob, *(one for one in known if one.repository != blob.repository)][:_MOST_BLOBS]
        self._drop_digests(diff_id, known)
        self._layers.update((one.digest, diff_id) for one in kept)
        self._blobs[diff_id] = kept
        await self._database.put("blob", diff_id, msgspec.json.encode(kept))

    def forget(self, diff_id: str) -> None:
        """Forget all blobs of a layer that is removed. Does not wait for the disk."""
        self._drop_digests(diff_id, self._blobs.pop(diff_id, []))
        self._database.queue("blob", diff_id, None)

    def _drop_digests(self, diff_id: str, blobs: list[Blob]) -> None:
        for blob in blobs:
            if self._layers.get(blob.digest) == diff_id:
                del self._layers[blob.digest]
