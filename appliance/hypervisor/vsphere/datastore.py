"""Files of a datastore, over vSphere's HTTP interface (vSphere Web Services SDK: HTTP access to vSphere server files)."""

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

import httpx
import trio
from pyVmomi import vim

from appliance.config import bracketed
from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.faults import AlreadyThere, AnswerLost, Busy, NoFile
from appliance.hypervisor.vsphere.inventory import DatastoreLocation
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.vmdk import descriptor, flat_name

log = logging.getLogger(__name__)

T = TypeVar("T")
_PIECE = 1 << 20
_TIMEOUT = httpx.Timeout(60, connect=15)
_TRIES, _PAUSE = 4, 0.5
_AT_ONCE = 4
# Says whose the tenant's files are.
_OWNER = "owner"
CarryOut = Callable[..., Awaitable[Any]]


async def folders_are_objects(session: Session, datastore: Any) -> bool:
    """Whether a folder at the top of it is an object of its own, as on vSAN and vVols."""
    return await session.look("datastore", datastore, "capability.topLevelDirectoryCreateSupported") is False


class _Body(httpx.AsyncByteStream):
    """A file, read in a thread piece by piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        piece = await trio.to_thread.run_sync(self._file.read, _PIECE)
        if not piece:
            raise StopAsyncIteration
        return piece


class Datastore:
    """One tenant's files on a datastore, all below a folder of its own. Several transfers go on at once, a few at most."""

    def __init__(
        self, session: Session, location: DatastoreLocation, tenant: str, client: httpx.AsyncClient, carry_out: CarryOut
    ) -> None:
        self._session = session
        self._carry_out = carry_out
        self._location = location
        self._tenant = tenant
        self._root = f"vch-{tenant}"
        self._client = client
        self._limit = trio.CapacityLimiter(_AT_ONCE)
        self._under_way: dict[str, trio.Event] = {}
        self._folders: set[str] = set()
        # The path of the folder where it is an object.
        self._object = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, session: Session, location: DatastoreLocation, tenant: str, carry_out: CarryOut
    ) -> AsyncIterator["Datastore"]:
        """`carry_out` makes a change that is a task, as a Collector's does."""
        async with httpx.AsyncClient(
            verify=session.server.context(),
            timeout=_TIMEOUT,
            trust_env=False,
            limits=httpx.Limits(max_connections=_AT_ONCE),
        ) as client:
            store = cls(session, location, tenant, client, carry_out)
            await store._find_root()
            yield store

    async def _find_root(self) -> None:
        """On vSAN and vVols a folder at the top is an object, known by its UUID, and that is how backings have to name it."""
        if not await folders_are_objects(self._session, self.reference):
            return
        manager, name = self._session.content.datastoreNamespaceManager, self._root
        try:
            self._object = str(
                await self._repeat(
                    lambda: self._session.change(f"folder {name}", manager.CreateDirectory, self.reference, name)
                )
            )
        except AlreadyThere:
            # It ends in a slash.
            url = str(await self._session.look("datastore", self.reference, "summary.url"))
            datacenter = self._location.datacenter
            convert = manager.ConvertNamespacePathToUuidPath
            self._object = str(await self._session.read(f"folder {name}", convert, datacenter, f"{url}{name}"))
        self._root = self._object.rstrip("/").rpartition("/")[2]
        self._folders.add("")

    @property
    def names_folders(self) -> bool:
        """Whether a machine's folder can be named, and is not chosen by the datastore."""
        return not self._object

    @property
    def reference(self) -> Any:
        """The datastore itself."""
        return self._location.datastore

    def path(self, name: str) -> str:
        """A file of ours as vSphere's calls take it: [datastore] folder/name."""
        return f"[{self._location.name}] {self._root}/{name}"

    def _url(self, name: str) -> str:
        server, location = self._session.server, self._location
        query = f"dcPath={quote(location.datacenter_name)}&dsName={quote(location.name)}"
        return f"https://{bracketed(server.host)}:{server.port}/folder/{quote(f'{self._root}/{name}')}?{query}"

    async def _send(
        self, method: str, name: str, body: Callable[[], httpx.AsyncByteStream] | None = None, length: int = 0
    ) -> httpx.Response | None:
        """Made again when the answer is lost, since it does the same again; None for what is not there.

        HypervisorError says what the server says, or why it cannot be reached.
        """
        problem = ""
        for tried in range(_TRIES):
            if tried:
                log.info("%s %s: %s; it is tried again", method, self.path(name), problem)
                await trio.sleep(_PAUSE * 2**tried)
            headers = {"Cookie": self._session.cookie.partition(";")[0]}
            if body is not None:
                headers |= {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
            request = self._client.build_request(method, self._url(name), headers=headers)
            if body is not None:
                request.stream = body()
            try:
                response = await self._client.send(request)
            except httpx.HTTPError as error:
                # Many say nothing.
                problem = str(error) or type(error).__name__
                continue
            if response.is_success:
                return response
            if response.status_code == 404 and body is None:
                return None
            problem = f"{response.status_code} {response.reason_phrase}"
            if response.status_code in (401, 403):
                # The cookie may be one of a session that has ended: a call finds that out.
                await self._session.look("datastore", self._location.datastore, "name")
        raise HypervisorError(f"cannot {'read' if body is None else 'write'} {self.path(name)}: {problem}")

    async def size(self, name: str) -> int | None:
        """How long a file is; None when it is not there."""
        found = await self._send("HEAD", name)
        return None if found is None else int(found.headers.get("content-length", "0"))

    async def claim(self, owner: str) -> bool:
        """Make the tenant's files this owner's, who alone may tidy them up; True when they were nobody's until now.

        InvalidParameter when they are another's.
        """
        await self._make_folder("")
        found = await self._send("GET", _OWNER)
        if new := found is None:
            text = owner.encode()
            await self._send("PUT", _OWNER, lambda: httpx.ByteStream(text), len(text))
            found = await self._send("GET", _OWNER)
        if found is None or found.text.strip() != owner:
            raise InvalidParameter(
                f"--tenant {self._tenant}: it is another appliance's; choose another name, or remove {self.path(_OWNER)} when that "
                "one is gone for good"
            )
        return new

    async def put(self, name: str, source: Path) -> None:
        """Write a file, and look that all of it is there. HypervisorError says why it is not."""
        with open(source, "rb") as file:

            def body() -> httpx.AsyncByteStream:
                file.seek(0)
                return _Body(file)

            length = os.fstat(file.fileno()).st_size
            await self._send("PUT", name, body, length)
        written = await self.size(name)
        if written != length:
            raise HypervisorError(f"cannot write {self.path(name)}: {written} of {length} bytes are there")

    async def file_of(self, source: Path, name: str) -> str:
        """The path of a file with the bytes of one that never changes, known by its name: written if it is not there."""
        if await self.size(name) != source.stat().st_size:
            await self._make_folder(name.rpartition("/")[0])
            await self.put(name, source)
        return self.path(name)

    async def disk_of(self, source: Path, folder: str) -> str:
        """The path of a virtual disk with the bytes of a file that never changes, known by its name: written if it is not there."""
        return await self.made_disk(source.stem, folder, source.stat().st_size, lambda: nullcontext(source))

    async def made_disk(
        self, stem: str, folder: str, size: int, make: Callable[[], AbstractAsyncContextManager[Path]]
    ) -> str:
        """The same, of a file that is made only when it is needed."""
        name = f"{folder}/{stem}.vmdk"
        async with self._alone(name):
            if not await self._is_whole(name, size):
                async with self._limit, make() as source:
                    await self._write_disk(name, source)
        return self.path(name)

    async def drop_disk_of(self, source: Path, folder: str) -> None:
        """Remove what `disk_of` has written; whoever wants it meanwhile has it written anew."""
        name = f"{folder}/{source.stem}.vmdk"
        async with self._alone(name):
            await self.delete_disk(self.path(name))

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """One at a time for each name."""
        while (under_way := self._under_way.get(name)) is not None:
            await under_way.wait()
        done = self._under_way[name] = trio.Event()
        try:
            yield
        finally:
            del self._under_way[name]
            done.set()

    async def _is_whole(self, name: str, size: int) -> bool:
        # The descriptor is written last: where it is, the bytes are.
        return await self.size(name) is not None and await self.size(flat_name(name)) == size

    async def _write_disk(self, name: str, source: Path) -> None:
        await self._make_folder(name.rpartition("/")[0])
        await self.put(flat_name(name), source)
        plain = name.rpartition("/")[2]
        number = int.from_bytes(hashlib.sha256(plain.encode()).digest()[:4], "big")
        text = descriptor(plain, source.stat().st_size, number)
        await self._send("PUT", name, lambda: httpx.ByteStream(text), len(text))

    async def _make_folder(self, folder: str) -> None:
        if folder in self._folders:
            return
        make = self._session.content.fileManager.MakeDirectory
        try:
            await self._repeat(
                lambda: self._session.change(
                    f"folder {folder}", make, self.path(folder), self._location.datacenter, True
                )
            )
        except AlreadyThere:
            pass
        self._folders.add(folder)

    async def _repeat(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do what comes to the same when it is done again, until it is heard that it is done."""
        for tried in range(1, _TRIES + 1):
            try:
                return await act()
            except (AnswerLost, Busy) as error:
                if tried == _TRIES:
                    raise
                log.info("%s; it is tried again", error)
                await trio.sleep(_PAUSE)
        raise AssertionError("unreachable")

    # -- disks that are written to --------------------------------------------------------------------------------

    async def create_disk(self, folder: str, name: str, size: int) -> None:
        """A blank thin disk of `size` bytes; one of that name which was there before is nobody's, and goes."""
        manager = self._session.content.virtualDiskManager
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="thin", adapterType="lsiLogic", capacityKb=size >> 10
        )
        path = self.path(f"{folder}/{name}")
        lost = False
        for _ in range(_TRIES):
            await self._make_folder(folder)
            try:
                await self._carry_out(
                    f"disk {path}", manager.CreateVirtualDisk_Task, path, self._location.datacenter, spec
                )
            except AlreadyThere:
                if lost:
                    return
                await self.delete_disk(path)
            except NoFile:
                # Somebody has tidied up.
                self._folders.discard(folder)
            except (AnswerLost, Busy) as error:
                log.info("%s; it is tried again", error)
                lost = True
                await trio.sleep(_PAUSE)
            else:
                return
        raise HypervisorError(f"cannot make the disk {path}")

    async def delete_disk(self, path: str) -> None:
        """Remove a virtual disk; one that is not there is no error."""
        delete = self._session.content.virtualDiskManager.DeleteVirtualDisk_Task
        try:
            await self._repeat(lambda: self._carry_out(f"delete {path}", delete, path, self._location.datacenter))
        except NoFile:
            pass

    async def delete(self, name: str) -> None:
        """Remove a file or folder with all that is in it, "" for all that is ours; one that is not there is no error."""
        if not name and self._object:
            await self._delete_object()
            return
        delete = self._session.content.fileManager.DeleteDatastoreFile_Task
        path = self.path(name).rstrip("/")
        try:
            await self._repeat(lambda: self._carry_out(f"delete {path}", delete, path, self._location.datacenter))
        except NoFile:
            pass

    async def _delete_object(self) -> None:
        # It has to be empty.
        for name in await self.list_files("", "*"):
            await self.delete(name)
        delete = self._session.content.datastoreNamespaceManager.DeleteDirectory
        try:
            await self._repeat(
                lambda: self._session.change(f"delete {self._object}", delete, self._location.datacenter, self._object)
            )
        except NoFile:
            pass

    async def list_files(self, folder: str, pattern: str = "*.vmdk") -> dict[str, int]:
        """The disks in a folder of ours, or files of another pattern, with the bytes that they take; none when it is not there."""
        browser = await self._session.look("datastore", self._location.datastore, "browser")
        details = vim.host.DatastoreBrowser.FileInfo.Details(
            fileSize=True, fileType=False, modification=False, fileOwner=False
        )
        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=[pattern], details=details)
        search = browser.SearchDatastore_Task
        try:
            found = await self._repeat(lambda: self._carry_out(f"list {folder}", search, self.path(folder), spec))
        except NoFile:
            return {}
        return {one.path: int(one.fileSize or 0) for one in found.file}
