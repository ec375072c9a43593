"""Builds without a VM: a native buildkitd, the door over a store of its own, and Solves that go through both."""

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.config import DoorAccess
from appliance.buildkit.dial import UnixDial
from appliance.buildkit.door_names import DOOR_HOST
from appliance.engine.builds.contracts import DoorPlace
from appliance.engine.builds.credentials import AUTHORITY, CERTIFICATE, KEY, BuilderKeys
from appliance.engine.builds.door import Door
from appliance.engine.builds.solve import SolveService
from appliance.engine.model.events import EventBus
from appliance.image.store import ImageStore
from tests.live.buildkit_native import NativeBuilders, native_buildkitd
from tether.rpc.bridge import LoopThread


@dataclass(frozen=True)
class NativeDoor:
    """`host` is the registry host of the door ("vch.internal:PORT"), `socket` is buildkitd's."""

    store: ImageStore
    door: Door
    builders: NativeBuilders
    solves: SolveService
    events: EventBus
    host: str
    socket: Path


def _toml(access: DoorAccess) -> str:
    return (
        f'[registry."{access.host}"]\n  ca = ["{access.authority}"]\n'
        f'  [[registry."{access.host}".keypair]]\n    key = "{access.key}"\n    cert = "{access.certificate}"\n'
    )


def with_hosts(path: Path) -> list[str]:
    """The beginning of a command whose program has another /etc/hosts."""
    script = f'mount --bind {shlex.quote(str(path))} /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "--", "sh", "-c", script, "sh"]


@asynccontextmanager
async def native_door(folder: Path, store: ImageStore, *, config: str = "") -> AsyncIterator[NativeDoor]:
    """A native buildkitd whose door is at the loopback. `config`: more of its buildkitd.toml. See native_buildkitd."""
    keys, own = BuilderKeys.make(folder / "keys")
    for name, content in own.items():
        (folder / name).write_bytes(content)
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {DOOR_HOST}\n")
    door, events = Door(store), EventBus()
    place = DoorPlace("127.0.0.1", "", 0, keys.certificate, keys.key, keys.authority)
    async with door.listen(place) as port:
        host = f"{DOOR_HOST}:{port}"
        access = DoorAccess(host, *(str(folder / name) for name in (AUTHORITY, CERTIFICATE, KEY)))
        opened = native_buildkitd(folder, config=_toml(access) + config, inside=with_hosts(hosts))
        # It waits for buildkitd without trio.
        socket = await trio.to_thread.run_sync(opened.__enter__)
        try:
            async with LoopThread.open() as loop, BuildkitChannel.open(loop, UnixDial(str(socket))) as channel:
                builders = NativeBuilders(channel, host)
                solves = SolveService(builders, door, store, events, door.manifest_digest)
                yield NativeDoor(store, door, builders, solves, events, host, socket)
        finally:
            opened.__exit__(None, None, None)
