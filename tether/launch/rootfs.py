"""The container's view of files: its mounts, devices and links, then pivot_root. Runs in the child.

Every path of the spec is resolved inside the container's root (openat2), so that no link of an image leads a mount outside.
"""

import contextlib
import os
import stat

from tether.launch.failure import step
from tether.launch.oci import Mount
from tether.launch.spec import Spec
from tether.system import linux

_FLAGS = {
    "ro": (linux.MS_RDONLY, 0), "rw": (0, linux.MS_RDONLY),
    "nosuid": (linux.MS_NOSUID, 0), "suid": (0, linux.MS_NOSUID),
    "nodev": (linux.MS_NODEV, 0), "dev": (0, linux.MS_NODEV),
    "noexec": (linux.MS_NOEXEC, 0), "exec": (0, linux.MS_NOEXEC),
    "sync": (linux.MS_SYNCHRONOUS, 0), "async": (0, linux.MS_SYNCHRONOUS), "dirsync": (linux.MS_DIRSYNC, 0),
    "noatime": (linux.MS_NOATIME, 0), "atime": (0, linux.MS_NOATIME),
    "nodiratime": (linux.MS_NODIRATIME, 0), "diratime": (0, linux.MS_NODIRATIME),
    "relatime": (linux.MS_RELATIME, 0), "norelatime": (0, linux.MS_RELATIME),
    "strictatime": (linux.MS_STRICTATIME, 0), "nostrictatime": (0, linux.MS_STRICTATIME),
    "remount": (linux.MS_REMOUNT, 0), "bind": (linux.MS_BIND, 0), "rbind": (linux.MS_BIND | linux.MS_REC, 0),
    "defaults": (0, 0),
}  # fmt: skip
_PROPAGATION = {
    "private": linux.MS_PRIVATE,
    "slave": linux.MS_SLAVE,
    "shared": linux.MS_SHARED,
    "unbindable": linux.MS_UNBINDABLE,
}
_PROPAGATION |= {f"r{name}": value | linux.MS_REC for name, value in _PROPAGATION.items()}

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
# Directories of /dev with file systems of their own, and the devices that the tether's channel or the console may use: an init
# system in a privileged container would start a login on each serial line.
_NO_DEVICES = frozenset(("pts", "shm", "fd", "mqueue"))
_OUR_DEVICES = ("vport", "ttyS", "hvc", "console")
_LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)


def parse_options(options: tuple[str, ...] | list[str]) -> tuple[int, int, str]:
    """fstab options as (mount flags, propagation flags, file system data)."""
    flags = 0
    propagation = 0
    data = []
    for option in options:
        if option in _FLAGS:
            on, off = _FLAGS[option]
            flags = flags & ~off | on
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        else:
            data.append(option)
    return flags, propagation, ",".join(data)


def enter_root(spec: Spec) -> None:
    """Build the mounts of the spec under its root and make that root `/`."""
    with step("make mounts private", "/"):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    with step("bind", spec.root.path):
        linux.mount(spec.root.path, spec.root.path, None, linux.MS_BIND | linux.MS_REC)
    root = os.open(spec.root.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for mount in spec.mounts:
        with step(f"mount {mount.destination}"):
            mount_point(root, mount)
    _make_devices(root, spec)
    for mount in spec.mounts:
        if mount.type == "tmpfs" and parse_options(mount.options)[0] & linux.MS_RDONLY:
            with step(f"make {mount.destination} read-only"):
                _remount(root, mount, parse_options(mount.options)[0])
    with step("pivot_root", spec.root.path):
        os.fchdir(root)
        linux.pivot_root(".", ".")
        # The old root now lies on top of the new one; it goes away with everything below it.
        linux.umount(".", linux.MNT_DETACH)
        os.chdir("/")
    os.close(root)


def make_parents(root: int, path: str, *, is_file: bool = False) -> int:
    """Open `path` inside the root, making what is missing (directories 0755, or an empty file at the end); an O_PATH fd."""
    try:
        return linux.open_in_root(root, path.lstrip("/") or ".", os.O_PATH)
    except FileNotFoundError:
        pass
    done = ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for index, part in enumerate(parts):
        parent = linux.open_in_root(root, done or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            if is_file and index == len(parts) - 1:
                os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
            else:
                os.mkdir(part, 0o755, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
        done = f"{done}/{part}".lstrip("/")
    return linux.open_in_root(root, done or ".", os.O_PATH)


def mount_point(root: int, mount: Mount) -> None:
    """Make one mount of a spec inside a root. A tmpfs is writable until enter_root has made what lies inside."""
    flags, propagation, data = parse_options(mount.options)
    if mount.type == "tmpfs":
        flags &= ~linux.MS_RDONLY
        data = ",".join(filter(None, (_mode_of_target(root, mount.destination), data)))
    is_bind = bool(flags & linux.MS_BIND) or mount.type == "bind"
    is_file = is_bind and not os.path.isdir(mount.source)
    target = make_parents(root, mount.destination, is_file=is_file)
    try:
        place = f"/proc/self/fd/{target}"
        if is_bind:
            linux.mount(mount.source, place, None, linux.MS_BIND | flags & linux.MS_REC)
            _remount(root, mount, flags & ~(linux.MS_BIND | linux.MS_REC))
        else:
            kind = "cgroup2" if mount.type == "cgroup" else mount.type
            linux.mount(mount.source or mount.type, place, kind, flags, data or None)
    finally:
        os.close(target)
    if propagation:
        target = linux.open_in_root(root, mount.destination.lstrip("/"), os.O_PATH)
        linux.mount(None, f"/proc/self/fd/{target}", None, propagation)
        os.close(target)


def _mode_of_target(root: int, path: str) -> str:
    """The option that gives a tmpfs the mode of the directory below it; "" when there is none.

    As runc does it (rootfs_linux.go, createOpenMountpoint): the owner is root's, and a later option "mode" wins.
    """
    try:
        target = linux.open_in_root(root, path.lstrip("/") or ".", os.O_PATH)
    except FileNotFoundError:
        return ""
    try:
        return f"mode={stat.S_IMODE(os.fstat(target).st_mode):04o}"
    finally:
        os.close(target)


def _remount(root: int, mount: Mount, flags: int) -> None:
    """mount(2) ignores the flags of a bind mount: set them by a second call, and keep the flags of the source."""
    if not flags:
        return
    target = linux.open_in_root(root, mount.destination.lstrip("/"), os.O_PATH)
    try:
        have = os.fstatvfs(target).f_flag
        keep = have & (linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        linux.mount(None, f"/proc/self/fd/{target}", None, linux.MS_BIND | linux.MS_REMOUNT | flags | keep)
    finally:
        os.close(target)


def _make_devices(root: int, spec: Spec) -> None:
    if not any(mount.destination.rstrip("/") == "/dev" for mount in spec.mounts):
        return
    directory = linux.open_in_root(root, "dev", os.O_PATH | os.O_DIRECTORY)
    old_mask = os.umask(0)
    with step("make devices", "/dev"):
        for name, major, minor in _DEVICES:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=directory)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=directory)
        if os.path.exists("/proc/kcore"):
            os.symlink("/proc/kcore", "core", dir_fd=directory)
    if spec.linux.guest_devices:
        with step("make the guest's devices", "/dev"):
            _copy_devices("/dev", directory)
    kinds = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
    for device in spec.linux.devices or ():
        with step("make device", device.path):
            parent = make_parents(root, os.path.dirname(device.path))
            name = os.path.basename(device.path)
            try:
                os.mknod(
                    name,
                    kinds[device.type] | device.file_mode & 0o7777,
                    os.makedev(device.major, device.minor),
                    dir_fd=parent,
                )
            except FileExistsError:
                continue
            finally:
                os.close(parent)
            os.chown(device.path.lstrip("/"), device.uid, device.gid, dir_fd=root, follow_symlinks=False)
    os.umask(old_mask)
    os.close(directory)


def _copy_devices(source: str, target: int) -> None:
    """Make the device nodes below `source` in a directory too, unless there are such (containerd, oci/utils_unix.go, HostDevices)."""
    for entry in os.scandir(source):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and entry.name not in _NO_DEVICES:
            with contextlib.suppress(FileExistsError):
                os.mkdir(entry.name, 0o755, dir_fd=target)
            inside = os.open(entry.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            _copy_devices(entry.path, inside)
            os.close(inside)
        elif (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)) and not entry.name.startswith(_OUR_DEVICES):
            try:
                os.mknod(entry.name, found.st_mode, found.st_rdev, dir_fd=target)
            except FileExistsError:
                continue
            os.chown(entry.name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)


def hide_paths(spec: Spec) -> None:
    """Masked and read-only paths, and the read-only root; after enter_root."""
    for path in spec.linux.readonly_paths:
        try:
            with step("make read-only", path):
                linux.mount(path, path, None, linux.MS_BIND | linux.MS_REC)
                keep = os.statvfs(path).f_flag & (linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
                linux.mount(None, path, None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_REC | keep)
        except Exception:
            if os.path.exists(path):
                raise
    for path in spec.linux.masked_paths:
        if os.path.isdir(path):
            with step("mask", path):
                linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
        elif os.path.exists(path):
            with step("mask", path):
                linux.mount("/dev/null", path, None, linux.MS_BIND)
    if spec.root.readonly:
        with step("make the root read-only", "/"):
            linux.mount(None, "/", None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY)
