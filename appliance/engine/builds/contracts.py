"""What the parts of this room know of one another: the machine, the door, one build.

lease   = Builders.use()         a buildkitd that answers; it runs at least as long as the lease
upload  = Uploads.open()         the door takes one image of this build, below /v2/build/ID
answer  = Solve upstream         buildkitd pulls from the door and pushes to it
image   = upload.finish()        the image is in the store, without a name
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.buildkit.channel import BuildkitChannel


@dataclass(frozen=True, slots=True)
class BuilderLease:
    """A buildkitd in use. `door` is the registry host by which it reaches the door: "vch.internal:PORT"."""

    channel: BuildkitChannel
    door: str


class Builders(Protocol):
    """Where a build gets its buildkitd. `engine.builds.machine.BuilderMachine` runs buildkitd in a machine of its own."""

    @property
    def running(self) -> bool:
        """Whether `use` would return without a start."""

    def use(self) -> AbstractAsyncContextManager[BuilderLease]:
        """A buildkitd that answers, started if necessary; it is not ended while the block lasts.

        Unavailable when it cannot be started; the text says why. If it ends inside of the block, calls of the channel fail with
        BuildkitError UNAVAILABLE.
        """


@dataclass(frozen=True, slots=True)
class DoorPlace:
    """Where the door listens. `device`: only for connections that come by this interface, "" for any. `port` 0: a free port.

    `certificate` and `key` are the files of the server, `authority` the file of the CA whose certificate a client needs (PEM).
    """

    address: str
    device: str
    port: int
    certificate: Path
    key: Path
    authority: Path


class DoorListener(Protocol):
    """The door, as the machine sees it: it listens while the machine is on. `engine.builds.door.Door` is one."""

    def listen(self, place: DoorPlace) -> AbstractAsyncContextManager[int]:
        """The port at which the door listens until the end of the block. Unavailable when it cannot."""


@dataclass(frozen=True, slots=True)
class PushedImage:
    """What a build pushed: the digest of the config is the image's ID."""

    image_id: str
    size: int


class Upload(Protocol):
    """What one build pushes. Layers that the door has received are kept while the upload is open."""

    @property
    def id(self) -> str:
        """buildkitd pushes to `DOOR/build/ID:latest`."""

    async def finish(self) -> PushedImage:
        """Add the pushed image to the store, without a name. ProtocolError when buildkitd pushed no manifest."""


class Uploads(Protocol):
    """The door's end of builds. `engine.builds.door.Door` is one."""

    def open(self) -> AbstractAsyncContextManager[Upload]:
        """An upload for one Solve. Its end drops what belongs to no image."""
