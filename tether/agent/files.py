"""Mounts of the guest: Filesystem of protos/tether/v1/filesystem.proto (archives come with `docker cp`)."""

import functools
import os
from pathlib import Path

import trio

from protos.tether.v1 import filesystem_pb2
from protos.tether.v1.filesystem_pb2 import Mount
from tether.launch.rootfs import parse_options
from tether.rpc.status import Code, RpcError
from tether.system import linux

_SCSI = "/sys/bus/scsi/devices"
# How long a disk that was promised may take to appear: discovery is asynchronous.
_DISK_PATIENCE = 10.0


@functools.cache
def _adapters() -> list[int]:
    """The SCSI hosts that are virtual disks' adapters. Host numbers count all from boot on, and ATA or floppy hosts may come
    first; adapters themselves are not plugged in later."""
    return sorted(
        int(path.name[4:]) for path in Path("/sys/class/scsi_host").glob("host*")
        if (path / "proc_name").read_text().strip() in ("virtio_scsi", "vmw_pvscsi")
    )  # fmt: skip


def _block_device(disk: filesystem_pb2.Disk) -> str | None:
    """The node of the disk at adapter:0:target:lun, by its address, since sdX follows the order of discovery."""
    if disk.adapter >= len(_adapters()):
        return None
    try:
        names = os.listdir(f"{_SCSI}/{_adapters()[disk.adapter]}:0:{disk.target}:{disk.lun}/block")
    except FileNotFoundError:
        return None
    node = f"/dev/{names[0]}" if names else ""
    return node if node and os.path.exists(node) else None


async def _wait_device(disk: filesystem_pb2.Disk) -> str:
    deadline = trio.current_time() + _DISK_PATIENCE
    while True:
        node = _block_device(disk)
        if node is not None:
            return node
        if trio.current_time() >= deadline:
            raise RpcError(Code.NOT_FOUND, f"no disk at adapter {disk.adapter} target {disk.target} lun {disk.lun}")
        await trio.sleep(0.005)


async def make_mount(mount: Mount) -> None:
    """Make one mount of a ConfigureRequest or MountRequest. RpcError when the kernel refuses."""
    flags, propagation, data = parse_options(list(mount.options))
    source, kind = mount.source, mount.type
    try:
        os.makedirs(mount.target, exist_ok=True)
        if mount.kind == Mount.DISK:
            source = await _wait_device(mount.disk)
        elif mount.kind == Mount.OVERLAY:
            await _mount_overlay(mount, flags, data)
            return
        linux.mount(source or kind or "none", mount.target, kind or None, flags, data or None)
        if propagation:
            linux.mount(None, mount.target, None, propagation)
    except OSError as error:
        raise RpcError(
            Code.FAILED_PRECONDITION, f"mount {source or kind} on {mount.target}: {error.strerror}"
        ) from error


async def _mount_overlay(mount: Mount, flags: int, data: str) -> None:
    """An overlay by short relative names: mount options are one page, and a stack of layers can be long."""
    directory = os.path.dirname(mount.lower[0])
    names = [os.path.relpath(lower, directory) for lower in mount.lower]
    for name in ("upper", "work"):
        os.makedirs(f"{mount.upper}/{name}", mode=0o755, exist_ok=True)
    options = f"lowerdir={':'.join(names)},upperdir={mount.upper}/upper,workdir={mount.upper}/work"
    before = os.getcwd()
    os.chdir(directory)
    try:
        linux.mount("overlay", mount.target, "overlay", flags, ",".join(filter(None, (options, data))))
    finally:
        os.chdir(before)


class FilesystemService:
    async def mount(self, request: filesystem_pb2.MountRequest) -> filesystem_pb2.MountResponse:
        await make_mount(request.mount)
        return filesystem_pb2.MountResponse()

    def unmount(self, request: filesystem_pb2.UnmountRequest) -> filesystem_pb2.UnmountResponse:
        try:
            linux.umount(request.target, linux.MNT_DETACH if request.lazy else 0)
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"unmount {request.target}: {error.strerror}") from error
        return filesystem_pb2.UnmountResponse()

    def freeze(self, request: filesystem_pb2.FreezeRequest) -> filesystem_pb2.FreezeResponse:
        self._freeze(request.path, True)
        return filesystem_pb2.FreezeResponse()

    def thaw(self, request: filesystem_pb2.ThawRequest) -> filesystem_pb2.ThawResponse:
        self._freeze(request.path, False)
        return filesystem_pb2.ThawResponse()

    @staticmethod
    def _freeze(path: str, frozen: bool) -> None:
        try:
            linux.freeze_filesystem(path, frozen)
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"{path}: {error.strerror}") from error
