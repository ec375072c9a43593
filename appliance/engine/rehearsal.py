"""What every guest does once before it is copied: the first mount, the first process and the first look at a card cost it a
second of importing and of page faults that no container has to wait for then."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.container.spec import build_spec
from appliance.errors import Conflict
from appliance.guest import GuestSession
from protos.tether.v1 import network_pb2, process_pb2
from protos.tether.v1.filesystem_pb2 import Mount
from tether.rpc.bridge import LoopThread
from tether.transport import Line

_PLACE = "/run/tether/rehearsal"
_PROCESS = "rehearsal"
_BOOT_SECONDS = 120.0
# Without KVM the third is four times as fast as the first; later ones gain little.
_ROUNDS = 3


def _spec() -> bytes:
    """A process on the guest's own root: what a container gets, but for the files that only a configured guest has."""
    spec = json.loads(build_spec({"Cmd": ["/bin/busybox", "echo", "ready"]}, {}, "rehearsal"))
    spec["root"]["path"] = f"{_PLACE}/rootfs"
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "bind"]
    return json.dumps(spec).encode()


@asynccontextmanager
async def rehearse(loop: LoopThread, line: Line) -> AsyncIterator[None]:
    """Bring a freshly booted guest to where a container can begin; in the block it is idle, and its line open.

    GuestFailure when it cannot.
    """
    session = GuestSession(loop, line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.hello(_BOOT_SECONDS)
        await session.apply_network(network_pb2.NetworkConfig())
        for _ in range(_ROUNDS):
            await _once(session)
        yield
        nursery.cancel_scope.cancel()


async def _once(session: GuestSession) -> None:
    await session.mount(Mount(kind=Mount.PLAIN, target=f"{_PLACE}/upper", type="tmpfs"))
    await session.mount(
        Mount(kind=Mount.OVERLAY, target=f"{_PLACE}/rootfs", lower=["/"], upper=f"{_PLACE}/upper")
    )  # fmt: skip
    await session.create_process(process_pb2.CreateRequest(id=_PROCESS, spec=_spec()))
    await session.start_process(_PROCESS)
    async with session.read_log(_PROCESS, 0) as stream:
        while await stream.receive():
            pass
    status = await session.wait_process(_PROCESS)
    if status.code or status.signal:
        raise Conflict(f"the rehearsal ended with {status}")
    await session.acknowledge(_PROCESS, status.final_offset)
    await session.delete_process(_PROCESS)
    for name in ("rootfs", "upper"):
        await session.unmount(f"{_PLACE}/{name}")
