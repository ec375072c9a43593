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
# The file that names the appliance that owns the tenant's files.
_OWNER = "owner"
CarryOut = Callable[..., Awaitable[Any]]


async def folders_are_objects(session: Session, datastore: Any) -> bool:
    """Whether a top-level folder of the datastore is an object, as on vSAN and vVols."""
    return await session.look("datastore", datastore, "capability.topLevelDirectoryCreateSupported") is False


class _Body(httpx.AsyncByteStream):
    """A request body: a file, read in a thread piece by piece."""

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
    """One tenant's files on a datastore, all below one folder. At most `_AT_ONCE` transfers run at the same time."""

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
        # On vSAN and vVols, the path of the tenant's folder by its UUID; else "".
        self._object = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, session: Session, location: DatastoreLocation, tenant: str, carry_out: CarryOut
    ) -> AsyncIterator["Datastore"]:
        """`carry_out` makes a change that is a task: see Collector.carry_out."""
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
        """Find the tenant's folder. On vSAN and vVols it is an object, and backings must name it by its UUID."""
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
            # The URL ends in a slash.
            url = str(await self._session.look("datastore", self.reference, "summary.url"))
            datacenter = self._location.datacenter
            convert = manager.ConvertNamespacePathToUuidPath
            self._object = str(await self._session.read(f"folder {name}", convert, datacenter, f"{url}{name}"))
        self._root = self._object.rstrip("/").rpartition("/")[2]
        self._folders.add("")

    @property
    def names_folders(self) -> bool:
        """Whether a VM's folder can have a chosen name. On vSAN and vVols the datastore chooses it."""
        return not self._object

    @property
    def reference(self) -> Any:
        """The managed object of the datastore."""
        return self._location.datastore

    def path(self, name: str) -> str:
        """The path of one of the tenant's files for vSphere's calls: "[datastore] folder/name"."""
        return f"[{self._location.name}] {self._root}/{name}"

    def _url(self, name: str) -> str:
        server, location = self._session.server, self._location
        query = f"dcPath={quote(location.datacenter_name)}&dsName={quote(location.name)}"
        return f"https://{bracketed(server.host)}:{server.port}/folder/{quote(f'{self._root}/{name}')}?{query}"

    async def _send(
        self, method: str, name: str, body: Callable[[], httpx.AsyncByteStream] | None = None, length: int = 0
    ) -> httpx.Response | None:
        """Send a request; None when the file does not exist. The request is idempotent, so it is repeated when the answer is lost.

        HypervisorError holds the server's words, or says why the server cannot be reached.
        """
        problem = ""
        for tried in range(_TRIES):
            if tried:
                log.info("%s %s: %s; trying again", method, self.path(name), problem)
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
                # Many of httpx's errors have no text.
                problem = str(error) or type(error).__name__
                continue
            if response.is_success:
                return response
            if response.status_code == 404 and body is None:
                return None
            problem = f"{response.status_code} {response.reason_phrase}"
            if response.status_code in (401, 403):
                # The session of the cookie may have ended. A call logs in again then.
                await self._session.look("datastore", self._location.datastore, "name")
        raise HypervisorError(f"cannot {'read' if body is None else 'write'} {self.path(name)}: {problem}")

    async def size(self, name: str) -> int | None:
        """The size of a file in bytes; None when the file does not exist."""
        found = await self._send("HEAD", name)
        return None if found is None else int(found.headers.get("content-length", "0"))

    async def claim(self, owner: str) -> bool:
        """Claim the tenant's files for an owner, who alone may remove files; True when the files had no owner until now.

        InvalidParameter when the files have another owner.
        """
        await self._make_folder("")
        found = await self._send("GET", _OWNER)
        if new := found is None:
            text = owner.encode()
            await self._send("PUT", _OWNER, lambda: httpx.ByteStream(text), len(text))
            found = await self._send("GET", _OWNER)
        if found is None or found.text.strip() != owner:
            raise InvalidParameter(
                f"--tenant {self._tenant}: it is another appliance's tenant; choose another name, or remove {self.path(_OWNER)} if that "
                "appliance does not exist any more"
            )
        return new

    async def put(self, name: str, source: Path) -> None:
        """Write a file and check its size. HypervisorError when the write fails or the file is incomplete."""
        with open(source, "rb") as file:

            def body() -> httpx.AsyncByteStream:
                file.seek(0)
                return _Body(file)

            length = os.fstat(file.fileno()).st_size
            await self._send("PUT", name, body, length)
        written = await self.size(name)
        if written != length:
            raise HypervisorError(f"cannot write {self.path(name)}: {written} of {length} bytes were written")

    async def file_of(self, source: Path, name: str) -> str:
        """Upload a file that never changes, unless a file of that name and size exists; return its path."""
        if await self.size(name) != source.stat().st_size:
            await self._make_folder(name.rpartition("/")[0])
            await self.put(name, source)
        return self.path(name)

    async def disk_of(self, source: Path, folder: str) -> str:
        """Upload a file that never changes as a virtual disk, unless the disk exists; return the disk's path."""
        return await self.made_disk(source.stem, folder, source.stat().st_size, lambda: nullcontext(source))

    async def made_disk(
        self, stem: str, folder: str, size: int, make: Callable[[], AbstractAsyncContextManager[Path]]
    ) -> str:
        """Like `disk_of`, for a file that `make` creates when the disk does not exist."""
        name = f"{folder}/{stem}.vmdk"
        async with self._alone(name):
            if not await self._is_whole(name, size):
                async with self._limit, make() as source:
                    await self._write_disk(name, source)
        return self.path(name)

    async def drop_disk_of(self, source: Path, folder: str) -> None:
        """Remove the disk that `disk_of` has written. A caller that wants the disk meanwhile writes it again afterwards."""
        name = f"{folder}/{source.stem}.vmdk"
        async with self._alone(name):
            await self.delete_disk(self.path(name))

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Let one task at a time work on a name."""
        while (under_way := self._under_way.get(name)) is not None:
            await under_way.wait()
        done = self._under_way[name] = trio.Event()
        try:
            yield
        finally:
            del self._under_way[name]
            done.set()

    async def _is_whole(self, name: str, size: int) -> bool:
        # The descriptor is written last: if it exists, the flat file is complete.
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
        """Repeat an idempotent call until its answer arrives."""
        for tried in range(1, _TRIES + 1):
            try:
                return await act()
            except (AnswerLost, Busy) as error:
                if tried == _TRIES:
                    raise
                log.info("%s; trying again", error)
                await trio.sleep(_PAUSE)
        raise AssertionError("unreachable")

    # -- writable disks --------------------------------------------------------------------------------

    async def create_disk(self, folder: str, name: str, size: int) -> None:
        """Create a blank thin disk of `size` bytes. An existing disk of that name is a leftover, and is replaced."""
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
                # The folder was removed meanwhile.
                self._folders.discard(folder)
            except (AnswerLost, Busy) as error:
                log.info("%s; trying again", error)
                lost = True
                await trio.sleep(_PAUSE)
            else:
                return
        raise HypervisorError(f"cannot create the disk {path}")

    async def delete_disk(self, path: str) -> None:
        """Remove a virtual disk. No error when the disk does not exist."""
        delete = self._session.content.virtualDiskManager.DeleteVirtualDisk_Task
        try:
            await self._repeat(lambda: self._carry_out(f"delete {path}", delete, path, self._location.datacenter))
        except NoFile:
            pass

    async def delete(self, name: str) -> None:
        """Remove a file, or a folder with its content; "" is the tenant's folder. No error when it does not exist."""
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
        # Only an empty folder can be deleted.
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
        """The disks in one of the tenant's folders, or files of another pattern, with their sizes; {} when the folder does not exist."""
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
