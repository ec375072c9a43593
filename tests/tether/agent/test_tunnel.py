"""Several containers of a guest have sockets: each call of Accept watches its own. test_tunnel.py of the appliance covers connections."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protos.tether.v1.tunnel_pb2 import AcceptRequest, AcceptResponse, ListenRequest, Socket
from tether.agent.tunnel import TunnelService
from tether.rpc.status import Code, RpcError


class FakeCall:
    def __init__(self) -> None:
        self.announced: list[int] = []
        self.scope = trio.CancelScope()

    async def send(self, response: AcceptResponse) -> None:
        self.announced.append(response.socket)

    async def run(self, service: TunnelService, *sockets: int) -> None:
        with self.scope:
            await service.accept(AcceptRequest(sockets=sockets), self)  # type: ignore[arg-type]


class Guest:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.service = TunnelService(lambda _: os.getpid(), str(directory))
        sockets = [Socket(number=number, mode=0o600, uid=os.getuid(), gid=os.getgid()) for number in (1, 1024)]
        self.service.listen(ListenRequest(sockets=sockets))

    async def connect(self, number: int) -> trio.SocketStream:
        stream = await trio.open_unix_socket(str(self.directory / str(number)))
        await wait_all_tasks_blocked()
        return stream


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path / "sockets")


async def test_each_call_watches_its_sockets(guest: Guest, nursery: trio.Nursery) -> None:
    first, second, later = FakeCall(), FakeCall(), FakeCall()
    nursery.start_soon(first.run, guest.service, 1)
    nursery.start_soon(second.run, guest.service, 1024)
    async with await guest.connect(1), await guest.connect(1024) as kept:
        assert (first.announced, second.announced) == ([1], [1024])
        # A call of a later session waits for the end of the earlier one, and changes nothing for the other container.
        nursery.start_soon(later.run, guest.service, 1)
        async with await guest.connect(1):
            assert (first.announced, later.announced) == ([1, 1], [])
        first.scope.cancel()
        async with await guest.connect(1):
            assert later.announced == [1]
        assert len(guest.service._accepted) == 2
        # The second call still has its connection.
        with trio.move_on_after(0.01) as waiting:
            await kept.receive_some()
        assert waiting.cancelled_caught
    nursery.cancel_scope.cancel()
    guest.service.close()


async def test_a_call_without_numbers_watches_all_sockets(guest: Guest, nursery: trio.Nursery) -> None:
    call = FakeCall()
    nursery.start_soon(call.run, guest.service)
    async with await guest.connect(1), await guest.connect(1024):
        assert call.announced == [1, 1024]
    nursery.cancel_scope.cancel()
    guest.service.close()


async def test_sockets_of_a_container_are_closed(guest: Guest, nursery: trio.Nursery) -> None:
    call = FakeCall()
    nursery.start_soon(call.run, guest.service, 1, 1024)
    async with await guest.connect(1024) as gone:
        guest.service.close_sockets([1024, 99])
        assert await gone.receive_some() == b""
    assert sorted(os.listdir(guest.directory)) == ["1"]
    async with await guest.connect(1):
        assert call.announced == [1024, 1]
    # All places for connections are free again but one.
    assert (guest.service._slots.value, len(guest.service._accepted)) == (510, 1)
    with pytest.raises(RpcError, match="no socket 1024") as caught:
        await guest.service.accept(AcceptRequest(sockets=[1024]), call)  # type: ignore[arg-type]
    assert caught.value.code is Code.NOT_FOUND
    nursery.cancel_scope.cancel()
    guest.service.close()
