"""The files of scripted guests, in memory, on the tether's Filesystem service."""

import io
import posixpath
import stat
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio
from google.protobuf.message import Message

from protos.tether.v1 import filesystem_pb2
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError

_EMPTY_TAR = bytes(1024)


@dataclass(slots=True)
class GuestDisk:
    """Contents by absolute path; None for a directory. `changes` are (kind, path), `layer` is the tar of the changes.

    `hold` delays each reading of the layer until it is set; `held` is set when one waits. With `broken` it fails with that text.
    """

    files: dict[str, bytes | None] = field(
        default_factory=lambda: {"/": None, "/etc": None, "/etc/hostname": b"empty\n"}
    )
    changes: list[tuple["filesystem_pb2.Change.Kind", str]] = field(default_factory=list)
    layer: bytes = b""
    hold: trio.Event | None = None
    held: trio.Event = field(default_factory=trio.Event)
    broken: str = ""
    # Path of a link to what it leads to. A guest of version 0.1 does not tell that.
    links: dict[str, str] = field(default_factory=dict)
    resolves: bool = True


class FileService:
    """Filesystem of one VM. `requests` receives every request."""

    def __init__(self, disk: GuestDisk, requests: list[Message]) -> None:
        self._disk = disk
        self._requests = requests

    def _find(self, path: str) -> tuple[str, bytes | None]:
        path = posixpath.normpath(path or "/")
        if path not in self._disk.files:
            raise RpcError(Code.NOT_FOUND, f"{path}: no such file or directory")
        return path, self._disk.files[path]

    async def sync(self, request: filesystem_pb2.SyncRequest) -> filesystem_pb2.SyncResponse:
        self._requests.append(request)
        if self._disk.broken:
            raise RpcError(Code.UNIMPLEMENTED, self._disk.broken)
        if self._disk.hold is not None:
            await self._disk.hold.wait()
        return filesystem_pb2.SyncResponse()

    def stat(self, request: filesystem_pb2.StatRequest) -> filesystem_pb2.StatResponse:
        self._requests.append(request)
        path, content = self._find(request.path)
        mode = stat.S_IFDIR | 0o755 if content is None else stat.S_IFREG | 0o644
        resolved = self._disk.links.get(path, path) if self._disk.resolves else ""
        return filesystem_pb2.StatResponse(
            name=posixpath.basename(path) or "/", size=len(content or b""), mode=mode, resolved=resolved
        )

    async def read_archive(self, request: filesystem_pb2.ReadArchiveRequest, call: Call) -> None:
        self._requests.append(request)
        top, content = self._find(request.path)
        above = posixpath.dirname(top)
        names = [top] if content is not None else [path for path in self._disk.files if path.startswith(top)]
        files = {posixpath.relpath(path, above): self._disk.files[path] for path in names if path != "/"}
        await call.send(filesystem_pb2.ArchiveChunk(data=tar_of(files)))

    async def write_archive(self, call: Call) -> None:
        parts = [part async for part in _requests(call)]
        first, data = parts[0], b"".join(part.data for part in parts)
        self._requests.append(first)
        top, content = self._find(first.path)
        if content is not None:
            raise RpcError(Code.FAILED_PRECONDITION, "extraction point is not a directory")
        files = files_of(data)
        self._disk.files.update({posixpath.join(top, name): content for name, content in files.items()})
        await call.send(filesystem_pb2.WriteArchiveResponse(entries=len(files)))

    async def list_changes(self, request: filesystem_pb2.ListChangesRequest, call: Call) -> None:
        self._requests.append(request)
        changes = [filesystem_pb2.Change(kind=kind, path=path) for kind, path in self._disk.changes]
        await call.send(filesystem_pb2.ListChangesResponse(changes=changes))

    async def read_layer(self, request: filesystem_pb2.ReadLayerRequest, call: Call) -> None:
        self._requests.append(request)
        if self._disk.hold is not None:
            self._disk.held.set()
            await self._disk.hold.wait()
        if self._disk.broken:
            raise RpcError(Code.INTERNAL, self._disk.broken)
        await call.send(filesystem_pb2.ArchiveChunk(data=self._disk.layer or _EMPTY_TAR))


async def _requests(call: Call) -> AsyncIterator[filesystem_pb2.WriteArchiveRequest]:
    async for request in call:
        assert isinstance(request, filesystem_pb2.WriteArchiveRequest)
        yield request


def tar_of(files: dict[str, bytes | None]) -> bytes:
    """A tar of contents by name; None for a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def files_of(data: bytes) -> dict[str, bytes | None]:
    """The inverse of tar_of."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            member.name: None if (file := tar.extractfile(member)) is None else file.read()
            for member in tar.getmembers()
        }
