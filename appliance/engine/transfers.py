"""Images to and from registries.

Clients that pull the same image at the same time share one download. It ends when the last of them has left.
"""

import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from appliance.container.event import Event
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.model.events import EventBus
from appliance.errors import Forbidden, InvalidParameter, NotFound, ProtocolError, VchError, unforeseen
from appliance.image.manifest import DescribedPlatform, Descriptor, Distribution, ImageIndex, parse_manifest_untrusted
from appliance.image.platform import Platform
from appliance.image.progress import Progress, Report
from appliance.image.pull import digest_of, find_manifest, pull
from appliance.image.push import push
from appliance.image.reference import DOCKER_HUB, Reference
from appliance.image.store import ImageRecord, ImageStore
from appliance.registry import Credentials, Proxies, Registry, SearchResult, download, read_at_most

log = logging.getLogger(__name__)

Dial = Callable[[str, Credentials], AbstractAsyncContextManager[Registry]]
"""A client for a registry's host."""

_MAX_CONFIG = 8 << 20


@dataclass(slots=True)
class _Flight:
    """A pull under way. `lines` are all lines but counts of bytes: a client that joins later gets them first."""

    scope: trio.CancelScope
    lines: list[Progress] = field(default_factory=list)
    listeners: list[trio.MemorySendChannel[Progress]] = field(default_factory=list)
    over: bool = False
    error: VchError | None = None

    async def report(self, line: Progress) -> None:
        if not line.is_transient:
            self.lines.append(line)
        for listener in self.listeners:
            listener.send_nowait(line)

    def end(self, error: VchError | None) -> None:
        self.over, self.error = True, error
        for listener in self.listeners:
            listener.close()


class Transfers:
    """`allowed`: the registries that clients may use; empty: all registries. `nursery` owns the pulls."""

    def __init__(
        self,
        store: ImageStore,
        events: EventBus,
        dial: Dial,
        allowed: tuple[str, ...],
        scratch: Path,
        nursery: trio.Nursery,
        proxies: Proxies,
    ) -> None:
        self._store = store
        self._events = events
        self._dial = dial
        self._allowed = allowed
        self._scratch = scratch
        self._tasks = IsolatedTasks(nursery)
        self._proxies = proxies
        self._flights: dict[tuple[Reference, Platform, Credentials], _Flight] = {}

    def _open(self, host: str, credentials: Credentials) -> AbstractAsyncContextManager[Registry]:
        if self._allowed and host not in self._allowed:
            raise Forbidden(f"registry {host} is not allowed; the allowed registries are {', '.join(self._allowed)}")
        return self._dial(host, credentials)

    def _emit(self, action: str, identity: str, name: str) -> None:
        self._events.publish(Event("image", action, identity, {"name": name}))

    # -- pull -----------------------------------------------------------------------------------------------------

    async def pull(self, reference: Reference, credentials: Credentials, platform: Platform, report: Report) -> None:
        """Pull one image, or all tags of a repository if the reference has no tag."""
        if reference.tag or reference.digest:
            await self._join(reference, credentials, platform, report)
            return
        async with self._open(reference.domain, credentials) as registry:
            tags = await registry.tags(reference.path)
        if not tags:
            raise NotFound(f"no tags for {reference}")
        for tag in sorted(tags):
            one = Reference(reference.domain, reference.path, tag)
            await self._join(one, credentials, platform, report)

    async def _join(self, reference: Reference, credentials: Credentials, platform: Platform, report: Report) -> None:
        key = reference, platform, credentials
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(trio.CancelScope())
            self._tasks.start_soon(self._fly, key, flight)
        sender, receiver = trio.open_memory_channel[Progress](math.inf)
        for line in flight.lines:
            sender.send_nowait(line)
        flight.listeners.append(sender)
        try:
            async with receiver:
                async for line in receiver:
                    # A client that reads slowly gets fewer counts of bytes.
                    if not line.is_transient or receiver.statistics().current_buffer_used < 100:
                        await report(line)
        finally:
            flight.listeners.remove(sender)
            sender.close()
            if not flight.listeners and not flight.over:
                flight.scope.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]
        if flight.error is not None:
            raise flight.error

    async def _fly(self, key: tuple[Reference, Platform, Credentials], flight: _Flight) -> None:
        reference, platform, credentials = key
        error: VchError | None = None
        try:
            with flight.scope:
                async with self._open(reference.domain, credentials) as registry:
                    await pull(self._store, registry, reference, flight.report, platform)
                self._emit("pull", str(reference), reference.familiar_name)
        except VchError as caught:
            error = caught
        except Exception as caught:
            # The clients must see an error, not the end of a pull that succeeded.
            log.exception("the pull of %s failed", reference)
            error = unforeseen(caught)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.end(error)

    # -- push and the rest ----------------------------------------------------------------------------------------

    async def push(self, reference: Reference, credentials: Credentials, report: Report) -> None:
        """Push one tag, or all local tags of a repository if the reference has no tag."""
        async with self._open(reference.domain, credentials) as registry:
            # First line: later errors then come in the stream, as clients expect.
            await report(Progress(status=f"The push refers to repository [{reference.name}]"))
            for name, record in self._to_push(reference):
                one = Reference(reference.domain, reference.path, name.rpartition(":")[2])
                await push(self._store, registry, record, one, self._scratch, report)
                self._emit("push", str(one), one.familiar_name)

    def _to_push(self, reference: Reference) -> list[tuple[str, ImageRecord]]:
        before = f"{reference.name}:"
        found = sorted((name, one) for one in self._store.all() for name in one.references if name.startswith(before))
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        if reference.tag:
            found = [(name, one) for name, one in found if name == before + reference.tag]
            if not found:
                raise NotFound(f"tag does not exist: {reference}")
        return found

    async def log_in(self, host: str, credentials: Credentials) -> None:
        """Check credentials. Unauthorized when the registry rejects them."""
        async with self._open(host or DOCKER_HUB, credentials) as registry:
            await registry.ping()

    async def search(self, term: str, credentials: Credentials, limit: int) -> list[SearchResult]:
        """Search an index of images. The term may begin with the index's host."""
        host, slash, rest = term.partition("/")
        if not slash or (not any(mark in host for mark in ".:") and host != "localhost"):
            host, rest = DOCKER_HUB, term
        async with self._open(host, credentials) as registry:
            return await registry.search(rest, limit)

    async def distribution(self, reference: Reference, credentials: Credentials) -> Distribution:
        """The descriptor of what a registry has under a name, and its platforms."""
        complaint = f"malformed manifest of {reference}"
        async with self._open(reference.domain, credentials) as registry:
            found = await find_manifest(registry, reference, reference.digest or reference.tag)
            manifest = await trio.to_thread.run_sync(
                parse_manifest_untrusted, found.content, complaint, found.media_type
            )
            if isinstance(manifest, ImageIndex):
                platforms = [entry.platform for entry in manifest.manifests if entry.platform]
            else:
                async with registry.blob(reference.path, manifest.config.digest) as pieces:
                    content = await read_at_most(pieces, _MAX_CONFIG)
                if content is None:
                    raise ProtocolError(f"the config of {reference} is too large")
                try:
                    described = msgspec.json.decode(content, type=DescribedPlatform)
                except (msgspec.MsgspecError, RecursionError) as error:
                    raise ProtocolError(f"{complaint}: {error}") from error
                platforms = [DescribedPlatform(described.architecture, described.os)]
        digest, size = digest_of(found.content), len(found.content)
        return Distribution(Descriptor(media_type=found.media_type, digest=digest, size=size), platforms)

    async def fetch(self, url: str) -> AsyncGenerator[bytes, None]:
        """Download a tar for `docker import URL`."""
        address = url if "://" in url else f"http://{url}"
        if not address.startswith(("http://", "https://")):
            raise InvalidParameter(f"{url} is neither - nor an http address")
        async with aclosing(download(address, self._proxies)) as pieces:
            async for piece in pieces:
                yield piece
