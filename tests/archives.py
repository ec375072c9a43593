"""Archives for tests, entry by entry."""

import io
import tarfile


class Tar:
    """Builds an archive entry by entry."""

    def __init__(self, form: int = tarfile.PAX_FORMAT) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=form)  # noqa: SIM115

    def add(self, name: str, data: bytes | None = None, kind: bytes = tarfile.REGTYPE, **fields: object) -> "Tar":
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.mode = 0o644
        for key, value in fields.items():
            setattr(entry, key, value)
        if data is not None:
            entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data or b""))
        return self

    def bytes(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


class Pieces:
    """A blob as a registry or a client sends it: iterates over pieces of it. `sent` counts the bytes so far."""

    def __init__(self, blob: bytes, size: int = 1 << 16) -> None:
        self._blob = blob
        self._size = size
        self.sent = 0

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        piece = self._blob[self.sent : self.sent + self._size]
        if not piece:
            raise StopAsyncIteration
        self.sent += len(piece)
        return piece
