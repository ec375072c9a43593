"""The files of a container through its guest: stat, archives in pieces, changes, and what a guest refuses."""

from collections.abc import AsyncGenerator

import pytest
import trio

from appliance.errors import Conflict, InvalidParameter, NotFound, VchError
from appliance.guest import Change, GuestFiles, PathStat
from protos.tether.v1 import filesystem_pb2
from tests.appliance.guest.served import served
from tests.steps import cpu_of_steps, in_fresh_process
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError

PIECE = 256 << 10


class _Files:
    """The Filesystem service of a guest. `refusal` answers an upload after its first request."""

    def __init__(self) -> None:
        self.chunks = [b"a" * 10, b"b" * 10]
        self.breaks = False
        self.requests: list[filesystem_pb2.WriteArchiveRequest] = []
        self.asked: list[tuple[str, str]] = []
        self.refusal: tuple[Code, str] | None = None
        self.ended = trio.Event()

    def stat(self, request: filesystem_pb2.StatRequest) -> filesystem_pb2.StatResponse:
        self.asked.append((request.id, request.path))
        if request.path != "/etc/hosts":
            raise RpcError(Code.NOT_FOUND, f"{request.path}: no such file or directory")
        return filesystem_pb2.StatResponse(name="hosts", size=7, mode=0o120777, mtime_ns=5, link_target="/run/hosts")

    async def read_archive(self, request: filesystem_pb2.ReadArchiveRequest, call: Call) -> None:
        self.asked.append((request.id, request.path))
        if request.path == "/none":
            raise RpcError(Code.NOT_FOUND, "/none: no such file or directory")
        for chunk in self.chunks:
            await call.send(filesystem_pb2.ArchiveChunk(data=chunk))
        if self.breaks:
            raise RpcError(Code.INTERNAL, "the disk is broken")

    async def read_layer(self, _: filesystem_pb2.ReadLayerRequest, call: Call) -> None:
        await call.send(filesystem_pb2.ArchiveChunk(data=b"layer"))

    async def write_archive(self, call: Call) -> None:
        try:
            async for request in call:
                self.requests.append(request)
                if self.refusal is not None:
                    code, text = self.refusal
                    await call.send(filesystem_pb2.WriteArchiveResponse(code=code, error=text))
                    return
            await call.send(filesystem_pb2.WriteArchiveResponse(entries=1))
        finally:
            self.ended.set()

    async def list_changes(self, _: filesystem_pb2.ListChangesRequest, call: Call) -> None:
        kinds = filesystem_pb2.Change
        for part in ([(kinds.MODIFIED, "/etc"), (kinds.ADDED, "/etc/x")], [(kinds.DELETED, "/tmp")]):
            changes = [filesystem_pb2.Change(kind=kind, path=path) for kind, path in part]
            await call.send(filesystem_pb2.ListChangesResponse(changes=changes))


@pytest.fixture
async def guest() -> _Files:
    return _Files()


async def _source(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def _write(files: GuestFiles, source: AsyncGenerator[bytes, None]) -> None:
    await files.write("/srv", source, no_overwrite_dir_non_dir=True, owner="1:2")


async def test_stat(guest: _Files) -> None:
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        files = GuestFiles(session, "c0ffee")
        assert await files.stat("/etc/hosts") == PathStat("hosts", 7, 0o120777, 5, "/run/hosts")
        with pytest.raises(NotFound, match=r"^/none: no such file or directory$"):
            await files.root.stat("/none")
    # The disks' files have no process.
    assert guest.asked == [("c0ffee", "/etc/hosts"), ("", "/none")]


async def test_archives(guest: _Files) -> None:
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        files = GuestFiles(session, "c0ffee")
        assert b"".join([piece async for piece in files.read("/etc")]) == b"a" * 10 + b"b" * 10
        assert [piece async for piece in files.read_layer()] == [b"layer"]
        with pytest.raises(NotFound, match=r"^/none: no such file or directory$"):
            await anext(files.read("/none"))
        guest.breaks = True
        pieces = files.read()
        found = b""
        while len(found) < 20:
            found += await anext(pieces)
        assert found == b"a" * 10 + b"b" * 10
        with pytest.raises(VchError, match="the disk is broken"):
            await anext(pieces)
    assert guest.asked == [("c0ffee", "/etc"), ("c0ffee", "/none"), ("c0ffee", "")]


async def test_a_reader_that_stops_ends_the_call(guest: _Files) -> None:
    guest.chunks = [bytes(1 << 20)] * 50
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        pieces = GuestFiles(session).read("/big")
        assert len(await anext(pieces)) == 1 << 20
        await pieces.aclose()
        assert (await GuestFiles(session).stat("/etc/hosts")).size == 7


async def test_an_upload_goes_in_large_pieces(guest: _Files) -> None:
    pieces = [bytes([number % 251]) * 7000 for number in range(100)]
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        await _write(GuestFiles(session, "c0ffee"), _source(*pieces))
    first, *rest = guest.requests
    assert (first.id, first.path, first.owner, first.no_overwrite_dir_non_dir) == ("c0ffee", "/srv", "1:2", True)
    assert [len(one.data) for one in rest] == [PIECE, PIECE, 700_000 - 2 * PIECE]
    assert b"".join(one.data for one in guest.requests) == b"".join(pieces)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.NOT_FOUND, NotFound),
        (Code.FAILED_PRECONDITION, Conflict),
        (Code.INVALID_ARGUMENT, InvalidParameter),
    ],
)
async def test_a_guest_that_refuses_an_upload(guest: _Files, code: Code, kind: type[VchError]) -> None:
    guest.refusal = (code, "not there")
    closed = False

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            while True:
                yield bytes(PIECE)
                await trio.lowlevel.checkpoint()
        finally:
            closed = True

    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        # The answer comes before the end of the data.
        with pytest.raises(kind, match=r"^not there$"):
            await _write(GuestFiles(session), endless())
    assert closed


async def test_a_client_that_breaks_its_upload(guest: _Files) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise InvalidParameter("the body ended early")

    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        with pytest.raises(InvalidParameter, match=r"^the body ended early$"):
            await _write(GuestFiles(session), broken())
        await guest.ended.wait()


async def test_changes(guest: _Files) -> None:
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", guest)) as session:
        found = [one async for batch in GuestFiles(session).changes() for one in batch]
    assert found == [Change(0, "/etc"), Change(1, "/etc/x"), Change(2, "/tmp")]


class _Flood(_Files):
    """Reports half a million changes of two bytes in each MiB."""

    def __init__(self, size: int, times: int) -> None:
        super().__init__()
        self.message = filesystem_pb2.ListChangesResponse(changes=[filesystem_pb2.Change()] * (size // 2))
        self.times = times

    async def list_changes(self, request: filesystem_pb2.ListChangesRequest, call: Call) -> None:
        for _ in range(self.times):
            await call.send(self.message)


async def _count(size: int, times: int) -> int:
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", _Flood(size, times))) as session:
        return sum([len(batch) async for batch in GuestFiles(session).changes()])


def count_a_flood() -> int:
    return trio.run(_count, 512 << 10, 3)


def test_a_flood_of_changes_takes_no_more_memory_than_a_message() -> None:
    """30 MB of the wire became 499 MB: each change of two bytes was an object, and all were kept."""
    run = in_fresh_process(count_a_flood)
    assert run.result == 3 << 18
    assert run.grown < 80 << 20, run


async def test_a_message_with_more_changes_than_a_guest_sends_is_refused() -> None:
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", _Flood(2 << 20, 1))) as session:
        with pytest.raises(VchError, match=r"the guest sends a message of 2097152 bytes"):
            await anext(GuestFiles(session).changes())


async def test_no_step_of_a_flood_of_changes_is_long() -> None:
    async with served((filesystem_pb2.DESCRIPTOR, "Filesystem", _Flood(200_000, 1))) as session:
        changes = GuestFiles(session).changes()
        await anext(changes)
        with cpu_of_steps() as steps:
            async for _ in changes:
                await trio.lowlevel.checkpoint()
    assert steps.count >= 98
    assert steps.longest < 0.05, steps
