"""The files of containers, running or not: what `docker cp`, `diff`, `export` and `commit` read and write."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

from appliance.container.mounts import clean
from appliance.engine.containers.file_sessions import FileSessions
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, InvalidParameter, NotFound
from appliance.guest import Change, PathStat


class Archive:
    """Errors carry Docker's texts."""

    def __init__(
        self, registry: ContainerRegistry, file_sessions: FileSessions, repository: ContainerRepository
    ) -> None:
        self._registry = registry
        self._file_sessions = file_sessions
        self._repository = repository

    async def stat(self, ref: str, path: str) -> PathStat:
        container = self._registry.get(ref)
        async with self._file_sessions.files(container) as files:
            with _named(path, ref):
                return await files.stat(path)

    @asynccontextmanager
    async def read(self, ref: str, path: str) -> AsyncIterator[tuple[PathStat, AsyncGenerator[bytes, None]]]:
        """(Stat of the path, a tar of it)."""
        container = self._registry.get(ref)
        async with self._file_sessions.files(container) as files:
            with _named(path, ref):
                found = await files.stat(path)
            async with aclosing(files.read(path)) as archive:
                yield found, archive
        self._repository.emit(container, "archive-path")

    async def write(
        self,
        ref: str,
        path: str,
        source: AsyncGenerator[bytes, None],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_owner: bool,
    ) -> None:
        """Unpack a tar into a directory; with `copy_owner` the container's user owns the files."""
        container = self._registry.get(ref)
        owner = container.record.config.user if copy_owner else ""
        async with self._file_sessions.files(container) as files:
            with _named(path, ref):
                found = await files.stat(path)
                _check_writable(container, found.resolved or clean(path))
                try:
                    await files.write(path, source, no_overwrite_dir_non_dir=no_overwrite_dir_non_dir, owner=owner)
                except Conflict as error:
                    raise InvalidParameter(str(error)) from error
        self._repository.emit(container, "extract-to-dir")

    @asynccontextmanager
    async def changes(self, ref: str) -> AsyncIterator[AsyncGenerator[list[Change], None]]:
        """The changes of the container to its image, some at a time."""
        async with self._file_sessions.files(self._registry.get(ref)) as files, aclosing(files.changes()) as changes:
            yield changes

    @asynccontextmanager
    async def export(self, ref: str) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """A tar of the container's root file system, without its volumes."""
        container = self._registry.get(ref)
        async with self._file_sessions.files(container) as files, aclosing(files.root.read()) as archive:
            yield archive
        self._repository.emit(container, "export")

    @asynccontextmanager
    async def layer(self, container: Container) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The changes of the container to its image, as a layer's tar."""
        async with self._file_sessions.files(container) as files, aclosing(files.read_layer()) as archive:
            yield archive


def _check_writable(container: Container, path: str) -> None:
    """InvalidParameter if `path`, which has no links, is in a read-only volume, or in no volume and the root is read-only."""
    above = [
        mount
        for mount in container.record.mounts
        if f"{path.rstrip('/')}/".startswith(f"{mount.destination.rstrip('/')}/")
    ]
    if above:
        if max(above, key=lambda mount: len(mount.destination)).read_only:
            raise InvalidParameter("mounted volume is marked read-only")
    elif container.record.host_config.readonly_rootfs:
        raise InvalidParameter("container rootfs is marked read-only")


@contextmanager
def _named(path: str, ref: str) -> Iterator[None]:
    """Name the container in the error: the guest does not know its name."""
    try:
        yield
    except NotFound as error:
        raise NotFound(f"Could not find the file {path} in container {ref}") from error
