"""A builder and a door of tests, in place of a machine and the image store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from appliance.buildkit.channel import BuildkitChannel
from appliance.engine.builds.contracts import BuilderLease, Builders, PushedImage, Upload, Uploads
from appliance.errors import ProtocolError

DOOR = "vch.internal:5000"


@dataclass
class FakeBuilders:
    """Leases of one channel."""

    channel: BuildkitChannel
    running: bool = False
    users: int = 0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[BuilderLease]:
        self.running = True
        self.users += 1
        try:
            yield BuilderLease(self.channel, DOOR)
        finally:
            self.users -= 1


@dataclass
class FakeUpload:
    """`pushed` is set by a test, as if buildkitd had pushed."""

    id: str
    pushed: PushedImage | None = None

    async def finish(self) -> PushedImage:
        if self.pushed is None:
            raise ProtocolError("BuildKit pushed no image")
        return self.pushed


@dataclass
class FakeUploads:
    opened: list[FakeUpload] = field(default_factory=list)
    under_way: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Upload]:
        upload = FakeUpload(f"upload{len(self.opened)}")
        self.opened.append(upload)
        self.under_way += 1
        try:
            yield upload
        finally:
            self.under_way -= 1


def check_types(builders: FakeBuilders, uploads: FakeUploads) -> tuple[Builders, Uploads]:
    """mypy: the fakes are what the contracts say."""
    return builders, uploads
