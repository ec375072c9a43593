"""Access to the files of a container through its guest."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import trio
from google.protobuf.message import Message

from appliance.errors import Conflict
from appliance.guest.failures import GuestFailure
from appliance.guest.session import GuestSession
from protos.tether.v1 import filesystem_pb2
from tether.rpc.status import Code, RpcError

# As much as filesystem.proto allows in a message.
_PIECE = 256 << 10
# A guest reads 256 KiB of its list for each message; encoded, that is at most twice as much. Changes of one turn of the event loop.
_CHANGES_BYTES = 1 << 20
_CHANGES = 1000


@dataclass(frozen=True, slots=True)
class PathStat:
    """The result of lstat(2): `mode` is st_mode; `link_target` is the absolute final target of a symbolic link.

    `resolved` is the absolute path with all links followed; "" from a guest of version 0.1.
    """

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str
    resolved: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """`kind` as in Docker: 0 modified, 1 added, 2 deleted."""

    kind: int
    path: str


class GuestFiles:
    """The files that a process sees; without a process id those of the container's disks.

    `container` is the id of a further container of the machine, "" for the first one.
    """

    def __init__(self, session: GuestSession, process_id: str = "", container: str = "") -> None:
        self._session = session
        self._id = process_id
        self._container = container

    @property
    def root(self) -> "GuestFiles":
        """The files of the container's disks. Conflict for a further container, whose mounts the guest cannot leave out."""
        if self._container:
            raise Conflict(
                f"container {self._container} shares its machine with other containers: its files without those of its volumes can be "
                "read once the container is stopped"
            )
        return GuestFiles(self._session)

    async def stat(self, path: str) -> PathStat:
        """Stat a path; the last link is followed only if a slash is behind it. NotFound."""
        request = filesystem_pb2.StatRequest(id=self._id, path=path)
        found = await self._session.call("Filesystem/Stat", request, filesystem_pb2.StatResponse)
        return PathStat(found.name, found.size, found.mode, found.mtime_ns, found.link_target, found.resolved)

    def read(self, path: str = "") -> AsyncGenerator[bytes, None]:
        """A tar of a file or tree; without a path of the whole root. VchError before the first piece, or when the guest stops early."""
        return self._archive("Filesystem/ReadArchive", filesystem_pb2.ReadArchiveRequest(id=self._id, path=path))

    def read_layer(self) -> AsyncGenerator[bytes, None]:
        """The changes to the image, as a layer's tar."""
        return self._archive("Filesystem/ReadLayer", filesystem_pb2.ReadLayerRequest(id=self._container))

    async def _archive(self, method: str, request: Message) -> AsyncGenerator[bytes, None]:
        async with self._session.stream(method, request, filesystem_pb2.ArchiveChunk) as stream:
            while batch := await stream.receive():
                for chunk in batch:
                    yield chunk.data

    async def write(
        self, path: str, source: AsyncGenerator[bytes, None], *, no_overwrite_dir_non_dir: bool, owner: str
    ) -> None:
        """Unpack a tar into a directory. NotFound; Conflict when `path` is not a directory; InvalidParameter for a bad archive."""
        first = filesystem_pb2.WriteArchiveRequest(
            id=self._id, path=path, no_overwrite_dir_non_dir=no_overwrite_dir_non_dir, owner=owner
        )
        answer = filesystem_pb2.WriteArchiveResponse
        async with self._session.stream("Filesystem/WriteArchive", None, answer) as stream:
            problem: list[Exception] = []
            async with trio.open_nursery() as nursery:

                async def push() -> None:
                    try:
                        await stream.send(first)
                        async with aclosing(_pieces(source)) as pieces:
                            async for data in pieces:
                                await stream.send(filesystem_pb2.WriteArchiveRequest(data=data))
                        await stream.done_sending()
                    except RpcError:
                        pass  # the response tells the reason
                    except Exception as error:
                        problem.append(error)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(push)
                try:
                    # A guest that refuses answers before it has read all data.
                    for response in await stream.receive():
                        if response.code:
                            code = Code(response.code) if response.code in Code._value2member_map_ else Code.UNKNOWN
                            problem.append(RpcError(code, response.error))
                except RpcError as error:
                    problem.append(error)
                nursery.cancel_scope.cancel()
            if problem:
                raise problem[0]

    async def sync(self, timeout: float) -> None:
        """Have the guest write to the container's own disk what processes have written. A guest of version 0.1 does nothing."""
        request, response = filesystem_pb2.SyncRequest(id=self._container), filesystem_pb2.SyncResponse
        try:
            await self._session.call("Filesystem/Sync", request, response, timeout)
        except GuestFailure as error:
            if error.code is not Code.UNIMPLEMENTED:
                raise

    async def changes(self) -> AsyncGenerator[list[Change], None]:
        """The changes to the image, sorted by path, some at a time: a guest may report any number of them."""
        request = filesystem_pb2.ListChangesRequest(id=self._container)
        response = filesystem_pb2.ListChangesResponse
        async with self._session.stream("Filesystem/ListChanges", request, response, most=_CHANGES_BYTES) as stream:
            while batch := await stream.receive():
                for part in batch:
                    for start in range(0, len(part.changes), _CHANGES):
                        yield [Change(one.kind, one.path) for one in part.changes[start : start + _CHANGES]]


async def _pieces(source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes in messages of the largest size: each message costs a guest without KVM some milliseconds."""
    waiting = b""
    async with aclosing(source):
        async for data in source:
            waiting += data
            while len(waiting) >= _PIECE:
                yield waiting[:_PIECE]
                waiting = waiting[_PIECE:]
    if waiting:
        yield waiting
