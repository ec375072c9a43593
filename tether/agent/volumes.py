"""Volumes of a container: mount them, fill empty ones from the image, show them in the container's root without a process."""

import os
import shutil
import stat
from collections.abc import Iterable

import trio

from protos.tether.v1 import filesystem_pb2
from tether.agent.child import ROOTFS, VIEW, Work, child
from tether.agent.reaper import Reaper
from tether.launch.layout import ROOT
from tether.launch.oci import Mount
from tether.launch.rootfs import mount_point, parse_options
from tether.rpc.status import Code, RpcError
from tether.system import linux
from tether.system.network_namespace import entered

_SERVER_SECONDS = 30.0
# Entries that a new file system has in its root.
_OWN = frozenset(("lost+found",))


async def prepare(
    volumes: Iterable[filesystem_pb2.Volume], reaper: Reaper, *, show: bool, base: str = ROOT, namespace: int = -1
) -> None:
    """Make volumes ready. With `show`, also mount the first container's root with the volumes in it at VIEW.

    `base` is the directory of the container, `namespace` (a descriptor) the network namespace from which file servers are asked.
    RpcError when the kernel or a file server refuses.
    """
    wanted = list(volumes)
    for volume in wanted:
        if volume.make:
            os.makedirs(volume.source, exist_ok=True)
        if volume.type:
            await _mount(volume, reaper, namespace)
        if volume.copy_up and not volume.read_only and os.path.isdir(volume.source) and not _entries(volume.source):
            async with child(reaper, _filling(volume, f"{base}/rootfs")) as one:
                await one.finish()
    if show and wanted:
        try:
            _show(wanted)
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"volumes: {error.strerror}") from error


async def _mount(volume: filesystem_pb2.Volume, reaper: Reaper, namespace: int) -> None:
    """Mount in a child, which can be killed: mount(2) blocks while a file server does not answer."""
    flags, _, data = parse_options(list(volume.options))

    def work(_: int, __: int) -> None:
        try:
            with entered(namespace):
                linux.mount(volume.device, volume.source, volume.type, flags, data or None)
        except OSError as error:
            raise RpcError(
                Code.FAILED_PRECONDITION,
                f"failed to mount local volume: mount {volume.device}: {str(error.strerror).lower()}",
            ) from error

    with trio.move_on_after(_SERVER_SECONDS):
        async with child(reaper, work) as one:
            await one.finish()
        return
    raise RpcError(
        Code.FAILED_PRECONDITION, f"failed to mount local volume: mount {volume.device}: the server does not answer"
    )


def _filling(volume: filesystem_pb2.Volume, rootfs: str) -> Work:
    return lambda _, __: copy_up(rootfs, volume.destination, volume.source)


def _entries(path: str) -> list[str]:
    return [name for name in os.listdir(path) if name not in _OWN]


def _show(volumes: list[filesystem_pb2.Volume]) -> None:
    os.makedirs(VIEW, exist_ok=True)
    linux.mount(ROOTFS, VIEW, None, linux.MS_BIND)
    # Private: mounts in the view must not appear in the root itself.
    linux.mount(None, VIEW, None, linux.MS_PRIVATE)
    root = os.open(VIEW, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for volume in volumes:
            options = ("rbind", "ro") if volume.read_only else ("rbind",)
            mount_point(root, Mount(volume.destination, "bind", volume.source, options))
    finally:
        os.close(root)


def copy_up(rootfs: str, destination: str, target: str) -> None:
    """Copy the directory `destination` of the root `rootfs`, if there is one, into the empty directory `target`."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = linux.open_in_root(root, destination.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    os.umask(0)
    _Copier().copy_directory(f"/proc/self/fd/{source}", target)


class _Copier:
    """Copies trees; files that are hard links of each other stay so."""

    def __init__(self) -> None:
        self._copied: dict[tuple[int, int], str] = {}

    def copy_directory(self, source: str, target: str) -> None:
        with os.scandir(source) as entries:
            for entry in entries:
                self._copy(entry.path, f"{target}/{entry.name}")
        _copy_attributes(source, target, os.stat(source))

    def _copy(self, source: str, target: str) -> None:
        found = os.lstat(source)
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(target)
            self.copy_directory(source, target)
            return
        identity = found.st_dev, found.st_ino
        if identity in self._copied:
            os.link(self._copied[identity], target, follow_symlinks=False)
            return
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(source), target)
        elif stat.S_ISREG(found.st_mode):
            shutil.copyfile(source, target)
        elif stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
            os.mknod(target, found.st_mode)
        else:
            return  # Device nodes are not copied into a volume, which other containers may share.
        if found.st_nlink > 1:
            self._copied[identity] = target
        _copy_attributes(source, target, found)


def _copy_attributes(source: str, target: str, found: os.stat_result) -> None:
    link = stat.S_ISLNK(found.st_mode)
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    if not link:
        os.chmod(target, stat.S_IMODE(found.st_mode))
        for name in os.listxattr(source):
            if name.startswith(("user.", "security.capability")):
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
