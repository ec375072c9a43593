"""The container's files: Filesystem of protos/tether/v1/filesystem.proto."""

import errno
import functools
import os
import posixpath
import stat
from collections.abc import Callable
from pathlib import Path

import trio

from protos.tether.v1 import filesystem_pb2
from protos.tether.v1.filesystem_pb2 import Mount
from tether.agent import init_layer
from tether.agent.changes import differences, pack_layer
from tether.agent.child import Work, child, enter, root_of
from tether.agent.container_path import ContainerPath
from tether.agent.format_disk import format_if_blank
from tether.agent.pack import pack, pack_root
from tether.agent.reaper import Reaper
from tether.agent.unpack import unpack
from tether.launch.rootfs import parse_options
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError
from tether.system import linux

_SYS = Path("/sys")
_MOST_LINKS = 40
# Seconds that an announced disk may take to appear: the kernel discovers disks asynchronously.
_DISK_SECONDS = 10.0


@functools.cache
def _adapters() -> list[int]:
    """The SCSI hosts that are virtual disks' adapters. Host numbers count all from boot on, and ATA or floppy hosts may come
    first; adapters themselves are not plugged in later."""
    return sorted(
        int(path.name[4:])
        for path in Path("/sys/class/scsi_host").glob("host*")
        if (path / "proc_name").read_text().strip() in ("virtio_scsi", "vmw_pvscsi")
    )


def block_name(disk: filesystem_pb2.Disk, sys: Path = _SYS) -> str | None:
    """The name of a disk's whole block device, such as sda, by the disk's address; None while the kernel does not know the disk."""
    if disk.serial:
        for file in sys.glob("block/vd*/serial"):
            if file.read_text().rstrip("\n") == disk.serial:
                return file.parent.name
        return None
    if disk.pci:
        found = sys.glob(f"bus/pci/devices/{disk.pci}/virtio*/block/*")
    elif disk.adapter < len(_adapters()):
        found = sys.glob(f"bus/scsi/devices/{_adapters()[disk.adapter]}:0:{disk.target}:{disk.lun}/block/*")
    else:
        return None
    return next((path.name for path in found), None)


def _address_of(disk: filesystem_pb2.Disk) -> str:
    """The address for an error text."""
    if disk.serial or disk.pci:
        text = f"serial {disk.serial}" if disk.serial else f"PCI address {disk.pci}"
    else:
        text = f"adapter {disk.adapter} target {disk.target} lun {disk.lun}"
    return text + (f" partition {disk.partition}" if disk.partition else "")


def _block_device(disk: filesystem_pb2.Disk) -> str | None:
    """The node of the disk in /dev, once it can be opened."""
    name = block_name(disk)
    if name is None:
        return None
    node = f"/dev/{name}{disk.partition or ''}"
    try:
        # A disk that is being plugged in or removed has a node too, but the node cannot be opened.
        os.close(os.open(node, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return None
    return node


async def _wait_device(disk: filesystem_pb2.Disk) -> str:
    deadline = trio.current_time() + _DISK_SECONDS
    while True:
        node = _block_device(disk)
        if node is not None:
            return node
        if trio.current_time() >= deadline:
            raise RpcError(Code.NOT_FOUND, f"no disk at {_address_of(disk)}")
        await trio.sleep(0.005)


async def make_mount(reaper: Reaper, mount: Mount) -> None:
    """Make one mount of a ConfigureRequest. RpcError when the kernel refuses."""
    flags, propagation, data = parse_options(list(mount.options))
    source, kind = mount.source, mount.type
    try:
        os.makedirs(mount.target, exist_ok=True)
        if mount.kind == Mount.DISK:
            source = await _wait_device(mount.disk)
            if mount.blank:
                await format_if_blank(reaper, source, list(mount.blank))
        elif mount.kind == Mount.OVERLAY:
            await _mount_overlay(mount, flags, data)
            return
        elif mount.kind == Mount.SHARE:
            await _mount_share(mount)
            return
        linux.mount(source or kind or "none", mount.target, kind or None, flags, data or None)
        if flags & linux.MS_BIND and flags & ~(linux.MS_BIND | linux.MS_REC):
            # The kernel takes the flags of a bind mount in a second call only.
            linux.mount(None, mount.target, None, flags & ~linux.MS_REC | linux.MS_REMOUNT)
        if propagation:
            linux.mount(None, mount.target, None, propagation)
    except OSError as error:
        # In the words of moby/sys/mount: the options of a volume are the client's.
        shown = f", data: {data}" if data else ""
        reason = str(error.strerror).lower()
        raise RpcError(Code.FAILED_PRECONDITION, f"mount {source or kind}:{mount.target}{shown}: {reason}") from error


async def _mount_share(mount: Mount) -> None:
    """Mount a virtiofs share, once its device has appeared: hot-plugging is asynchronous."""
    deadline = trio.current_time() + _DISK_SECONDS
    while True:
        try:
            linux.mount(mount.source, mount.target, "virtiofs", 0, None)
            return
        except OSError:
            if trio.current_time() >= deadline:
                raise
        await trio.sleep(0.01)


async def _mount_overlay(mount: Mount, flags: int, data: str) -> None:
    """Mount an overlay by relative names of its layers: mount options are limited to one page, and an image has many layers.

    Docker's own layer lies above those of the image.
    """
    directory = os.path.dirname(mount.lower[0])
    # Beside the target: the layers may be those of another container, whose own layer must stay as it is.
    own = f"{os.path.dirname(mount.target)}/{init_layer.NAME}"
    init_layer.make_init_layer(own, mount.lower)
    names = [os.path.relpath(lower, directory) for lower in (own, *mount.lower)]
    for name in ("upper", "work"):
        os.makedirs(f"{mount.upper}/{name}", mode=0o755, exist_ok=True)
    # Without redirects and metacopies the upper directory can be compared with the lower ones: changes.py.
    options = f"lowerdir={':'.join(names)},upperdir={mount.upper}/upper,workdir={mount.upper}/work,redirect_dir=off,metacopy=off"
    before = os.getcwd()
    os.chdir(directory)
    try:
        linux.mount("overlay", mount.target, "overlay", flags, ",".join(filter(None, (options, data))))
    finally:
        os.chdir(before)


class FilesystemService:
    """`pid_of` returns the pid of a running process; RpcError when it does not run. `base_of` returns the directory of a container."""

    def __init__(self, reaper: Reaper, pid_of: Callable[[str], int], base_of: Callable[[str], str]) -> None:
        self._reaper = reaper
        self._pid_of = pid_of
        self._base_of = base_of

    # -- files ----------------------------------------------------------------------------------------------------

    def _pid(self, process_id: str) -> int:
        return self._pid_of(process_id) if process_id else 0

    def stat(self, request: filesystem_pb2.StatRequest) -> filesystem_pb2.StatResponse:
        pid = self._pid(request.id)
        try:
            root = os.open(root_of(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return _stat(root, ContainerPath.of(request.path))
            finally:
                os.close(root)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RpcError(Code.NOT_FOUND, f"{request.path}: {str(error.strerror).lower()}") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                # moby's text.
                raise RpcError(Code.ABORTED, f"evalSymlinksInScope: too many links in {request.path}") from error
            raise RpcError(Code.FAILED_PRECONDITION, f"{request.path}: {str(error.strerror).lower()}") from error

    async def read_archive(self, request: filesystem_pb2.ReadArchiveRequest, call: Call) -> None:
        pid, path = self._pid(request.id), request.path

        def work(_: int, out: int) -> None:
            if path:
                enter(pid, root_of(0))
                pack(path, out)
            else:
                enter(pid)
                pack_root(out)

        await self._send_archive(work, call)

    async def read_layer(self, request: filesystem_pb2.ReadLayerRequest, call: Call) -> None:
        base = self._base_of(request.id)

        def work(_: int, out: int) -> None:
            os.chroot(base)
            pack_layer(out)

        await self._send_archive(work, call)

    async def _send_archive(self, work: Work, call: Call) -> None:
        async with child(self._reaper, work) as packer:
            while data := await packer.output.read():
                await call.send(filesystem_pb2.ArchiveChunk(data=data))
            await packer.finish()

    async def write_archive(self, call: Call) -> None:
        first = await call.receive()
        if first is None:
            raise RpcError(Code.INVALID_ARGUMENT, "an archive is missing")
        try:
            response = await self._write_archive(first, call)
        except RpcError as error:
            response = filesystem_pb2.WriteArchiveResponse(code=error.code, error=error.message)
        await call.send(response)
        while await call.receive() is not None:
            pass

    async def _write_archive(
        self, first: filesystem_pb2.WriteArchiveRequest, call: Call
    ) -> filesystem_pb2.WriteArchiveResponse:
        pid = self._pid(first.id)

        def work(source: int, out: int) -> None:
            enter(pid, root_of(0))
            count = unpack(
                first.path, source, no_overwrite_dir_non_dir=first.no_overwrite_dir_non_dir, owner=first.owner
            )
            os.write(out, b"%d" % count)

        async with child(self._reaper, work) as unpacker:
            request: filesystem_pb2.WriteArchiveRequest | None = first
            while request is not None and await unpacker.input.write(request.data):
                request = await call.receive()
            unpacker.input.close()
            count = await unpacker.output.read()
            await unpacker.finish()
        return filesystem_pb2.WriteArchiveResponse(entries=int(count or b"0"))

    async def sync(self, request: filesystem_pb2.SyncRequest) -> filesystem_pb2.SyncResponse:
        base = self._base_of(request.id)

        def work(_: int, out: int) -> None:
            linux.syncfs(f"{base}/upper")

        # syncfs takes as long as the disk does.
        async with child(self._reaper, work) as syncer:
            await syncer.finish()
        return filesystem_pb2.SyncResponse()

    async def list_changes(self, request: filesystem_pb2.ListChangesRequest, call: Call) -> None:
        base = self._base_of(request.id)

        def work(_: int, out: int) -> None:
            os.chroot(base)
            with open(out, "wb", buffering=1 << 16, closefd=False) as file:
                for one in differences():
                    file.write(b"%d%s\0" % (one.kind, os.fsencode(one.path)))

        async with child(self._reaper, work) as lister:
            rest = b""
            while data := await lister.output.read():
                *whole, rest = (rest + data).split(b"\0")
                await call.send(
                    filesystem_pb2.ListChangesResponse(
                        changes=[
                            filesystem_pb2.Change(
                                kind=filesystem_pb2.Change.Kind.Name(int(one[:1])),
                                path=one[1:].decode("utf-8", "replace"),
                            )
                            for one in whole
                        ]
                    )
                )
            await lister.finish()


def _stat(root: int, place: ContainerPath) -> filesystem_pb2.StatResponse:
    directory, base = posixpath.split(place.path)
    if place.follows:
        fd = linux.open_in_root(root, place.path, os.O_PATH)
    else:
        parent = linux.open_in_root(root, directory, os.O_PATH | os.O_DIRECTORY)
        try:
            fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)
    try:
        found = os.fstat(fd)
        if place.follows and not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(20, "not a directory")
    finally:
        os.close(fd)
    resolved = _end_of_links(root, place.path)
    return filesystem_pb2.StatResponse(
        name=place.name,
        size=found.st_size,
        mode=found.st_mode,
        mtime_ns=found.st_mtime_ns,
        link_target=resolved if stat.S_ISLNK(found.st_mode) else "",
        resolved=resolved,
    )


def _end_of_links(root: int, path: str) -> str:
    """Return the path that a path leads to after all links; it need not exist. OSError (ELOOP) for a loop of links."""
    resolved = "/"
    waiting = path.split("/")[::-1]
    followed = 0
    while waiting:
        name = waiting.pop()
        if name in ("", "."):
            continue
        if name == "..":
            resolved = posixpath.dirname(resolved)
            continue
        resolved_name = posixpath.join(resolved, name)
        try:
            parent = linux.open_in_root(root, resolved, os.O_PATH | os.O_DIRECTORY)
            try:
                target = os.readlink(name, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError:
            resolved = resolved_name
            continue
        followed += 1
        if followed > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            resolved = "/"
        waiting += target.split("/")[::-1]
    return resolved
