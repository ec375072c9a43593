"""Routes for the files of containers: `docker cp`, `diff` and `export`."""

import base64
import stat
from collections.abc import AsyncGenerator

import msgspec

from appliance.api.backend import FileBackend
from appliance.api.router import Route
from appliance.container.times import rfc3339
from appliance.errors import InvalidParameter, NotFound
from appliance.guest import PathStat
from appliance.http import Reply, Request
from appliance.streams.decompressed import decompressed

_TAR = "application/x-tar"
# The header has the bits of Go's os.FileMode: st_mode's type, Go's bits.
_TYPES = {
    stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}  # fmt: skip
_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    special = sum(go for bit, go in _BITS if mode & bit)
    return mode & 0o777 | special | _TYPES.get(stat.S_IFMT(mode), 0)


def _stat_header(found: PathStat) -> bytes:
    shape = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": rfc3339(found.mtime_ns),
        "linkTarget": found.link_target,
    }
    return b"X-Docker-Container-Path-Stat: %s\r\n" % base64.b64encode(msgspec.json.encode(shape))


def _path(request: Request) -> str:
    path = request.text("path")
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidParameter("bad parameter: path contains NUL")
    return path


class ArchiveRoutes:
    """Files of running and stopped containers."""

    def __init__(self, backend: FileBackend) -> None:
        self._backend = backend

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        name = "/containers/{name}"
        return {
            ("HEAD", f"{name}/archive"): self.stat,
            ("GET", f"{name}/archive"): self.read,
            ("PUT", f"{name}/archive"): self.write,
            ("POST", f"{name}/copy"): self.copy,
            ("GET", f"{name}/changes"): self.changes,
            ("GET", f"{name}/export"): self.export,
        }

    async def stat(self, request: Request, reply: Reply) -> None:
        """HEAD /containers/{name}/archive."""
        found = await self._backend.stat(request.path["name"], _path(request))
        await reply.empty(200, _stat_header(found))

    async def read(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/archive: a tar."""
        async with self._backend.read(request.path["name"], _path(request)) as (found, archive):
            await _send(reply, archive, _stat_header(found))

    async def write(self, request: Request, reply: Reply) -> None:
        """PUT /containers/{name}/archive: unpack a tar."""
        await self._backend.write(
            request.path["name"],
            _path(request),
            decompressed(request.body()),
            no_overwrite_dir_non_dir=request.flag("noOverwriteDirNonDir"),
            copy_owner=request.flag("copyUIDGID"),
        )
        await reply.empty(200)

    async def copy(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/copy: `docker cp` before API 1.20. Docker has removed it in 1.24."""
        if request.version >= (1, 24):
            raise NotFound("page not found")
        body = await request.json()
        path = body.get("Resource") if isinstance(body, dict) else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise InvalidParameter("Path cannot be empty")
        async with self._backend.read(request.path["name"], path) as (_, archive):
            await _send(reply, archive)

    async def changes(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/changes: null, or an array, written as the guest reports its elements."""
        async with self._backend.changes(request.path["name"]) as batches:
            async for batch in batches:
                elements = msgspec.json.encode([{"Path": one.path, "Kind": one.kind} for one in batch])[1:-1]
                if not reply.started:
                    await reply.start("application/json")
                    await reply.write(b"[" + elements)
                else:
                    await reply.write(b"," + elements)
        if not reply.started:
            await reply.json(200, None)
        else:
            await reply.write(b"]\n")

    async def export(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/export: a tar of the whole root."""
        async with self._backend.export(request.path["name"]) as archive:
            await _send(reply, archive, kind="application/octet-stream")


async def _send(reply: Reply, archive: AsyncGenerator[bytes, None], headers: bytes = b"", kind: str = _TAR) -> None:
    """Send the head with the first piece, so that an error before it becomes a status."""
    async for data in archive:
        if not reply.started:
            await reply.start(kind, headers=headers)
        await reply.write(data)
