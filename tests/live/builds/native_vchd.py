"""A vchd whose builds run in a native buildkitd: `python -m tests.live.builds.native_vchd FLAGS`, as `python -m appliance FLAGS`.

The environment variable VCH_TEST_BUILDKIT names a folder of tests.live.builds.native.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from appliance import main
from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.dial import UnixDial
from appliance.buildkit.door_names import DOOR_HOST
from appliance.buildkit.rewrite import rewrite_workers
from appliance.composition import composed
from appliance.composition_builds import Buildkit, BuildParts
from appliance.container.build_request import BuilderFacts
from appliance.engine.builds.contracts import DoorPlace
from appliance.engine.builds.credentials import BuilderKeys
from tests.live.buildkit_native import NativeBuilders

VARIABLE = "VCH_TEST_BUILDKIT"
CONTROL = "/moby.buildkit.v1.Control/"


class NativePlace(msgspec.Struct):
    """Where the native buildkitd listens (a path), the port of the door, and the folder with the door's keys."""

    socket: str
    port: int
    keys: str


class Workers:
    """The answers of the native buildkitd."""

    def __init__(self, workers: bytes, info: bytes) -> None:
        self._workers = workers
        self._info = info

    def workers(self) -> bytes:
        """See calls.KnownWorkers."""
        return rewrite_workers(self._workers, "10.11.12.13")

    def info(self) -> bytes:
        """See calls.KnownWorkers."""
        return self._info


@asynccontextmanager
async def native_buildkit(parts: BuildParts) -> AsyncIterator[Buildkit]:
    """See composition_builds.MakeBuildkit."""
    place = msgspec.json.decode(os.environ[VARIABLE], type=NativePlace)
    keys = BuilderKeys.at(Path(place.keys))
    listens = DoorPlace("127.0.0.1", "", place.port, keys.certificate, keys.key, keys.authority)
    async with (
        parts.door.listen(listens) as port,
        BuildkitChannel.open(parts.loop, UnixDial(place.socket)) as channel,
    ):
        workers = Workers(await channel.call(f"{CONTROL}ListWorkers", b""), await channel.call(f"{CONTROL}Info", b""))
        yield Buildkit(
            NativeBuilders(channel, f"{DOOR_HOST}:{port}"), workers, limits=lambda: BuilderFacts(2 << 30, "10.11.12.13")
        )


if __name__ == "__main__":
    vars(main)["composed"] = partial(composed, make_buildkit=native_buildkit)
    main.run()
