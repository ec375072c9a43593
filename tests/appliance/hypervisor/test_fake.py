"""The driver in memory keeps the contract too."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from appliance.hypervisor import Driver, MachineSpec
from appliance.hypervisor.fake import FakeDriver, FakeHost
from tests.appliance.hypervisor.contract import DriverContract
from tests.tether.rpc.echo import random_id
from tether.rpc.listener import serve_link
from tether.transport import Line, LineClosed


async def _guest(_spec: MachineSpec, line: Line) -> None:
    try:
        await serve_link(line, {}, random_id)
    except* LineClosed:
        await trio.sleep_forever()


_hosts: dict[Path, FakeHost] = {}


@asynccontextmanager
async def _opened(root: Path) -> AsyncIterator[Driver]:
    async with trio.open_nursery() as nursery:
        host = _hosts.setdefault(root, FakeHost(nursery, _guest))
        host.nursery = nursery
        yield FakeDriver(host)
        nursery.cancel_scope.cancel()


class TestFake(DriverContract):
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return _opened(root)

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        await _hosts[root].machines[machine_id].kill()
