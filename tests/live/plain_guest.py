"""A plain guest for comparison: QEMU with the kernel of containers, busybox as init, and one file system. Nothing of vch runs in it."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.hypervisor.disks import SCRATCH
from appliance.hypervisor.qemu.command import KERNEL_ARGUMENTS
from appliance.hypervisor.qemu.shares import find_virtiofsd
from build.guest.image import Initrd, elf_kernel, fetch_packages, module_closures, resolve_packages

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
{modules}
{mount}
echo ready
while read -r script; do eval "$script"; done
"""
_DISK = "while [ ! -b /dev/sda ]; do sleep 0.05; done; mount -t ext4 -o discard,noinit_itable /dev/sda /mnt"
_SHARE = "mount -t virtiofs share /mnt"


def _boot_files(root: Path, mount: str) -> tuple[Path, Path]:
    """Kernel and initrd."""
    tree, kernel, initrd = root / "plain-tree", root / "plain-kernel", root / "plain-initrd"
    if not tree.exists():
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/downloads"
        wanted = {name: one for name, one in resolve_packages().items() if name.startswith(("linux-image", "busybox"))}
        for package in fetch_packages(wanted, cache):
            subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
        kernel.write_bytes(elf_kernel(next((tree / "boot").glob("vmlinuz-*")).read_bytes()))
    archive = Initrd()
    for folder in ("bin", "dev", "mnt", "proc", "sys"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, (tree / "bin/busybox").read_bytes())
    closures = module_closures(tree / "lib/modules")
    groups = closures["boot"] + [group for group in closures["later"] if any(path.stem == "virtiofs" for path in group)]
    modules = dict.fromkeys(path for group in groups for path in group)
    for path in modules:
        archive.add(path.name, stat.S_IFREG | 0o644, path.read_bytes())
    text = _INIT.format(modules="\n".join(f"insmod /{path.name}" for path in modules), mount=mount)
    archive.add("init", stat.S_IFREG | 0o755, text.encode())
    initrd.write_bytes(archive.encode())
    return kernel, initrd


@contextlib.contextmanager
def plain_guest(root: Path, *, shared: bool) -> Iterator[tuple[Callable[[str], None], list[int]]]:
    """(Run a script in the guest's shell, the host's processes that work for it). /mnt is ext4, or with `shared` virtiofs."""
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        kernel, initrd = _boot_files(root, _SHARE if shared else _DISK)
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "256M"]
        command += ["-accel", "tcg,thread=single,tb-size=64", "-cpu", "max,-erms"]
        command += ["-kernel", str(kernel), "-initrd", str(initrd)]
        command += ["-append", KERNEL_ARGUMENTS, "-chardev", f"socket,id=console,fd={theirs.fileno()}"]
        command += ["-device", "isa-serial,chardev=console"]
        machine = "pc,vmport=off,hpet=off"
        if shared:
            folder, place = root / "plain-share", root / "plain.sock"
            folder.mkdir()
            stack.callback(shutil.rmtree, folder)
            program = find_virtiofsd()
            assert program is not None
            server = subprocess.Popen(
                [program, "-f", f"--socket-path={place}", "-o", f"source={folder},xattr,log_level=err"],
                stderr=subprocess.DEVNULL,
            )
            stack.callback(server.wait)
            while not place.exists():
                time.sleep(0.01)
            machine += ",memory-backend=ram"
            command += ["-object", "memory-backend-memfd,id=ram,size=256M,share=on"]
            command += [
                "-chardev",
                f"socket,id=share,path={place}",
                "-device",
                "vhost-user-fs-pci,chardev=share,tag=share",
            ]
        else:
            disk = root / "plain-disk"
            with open(disk, "wb") as file:
                file.truncate(SCRATCH.size)
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *SCRATCH.options, disk], check=True)
            command += ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"]
            command += ["-blockdev", f"driver=file,filename={disk},node-name=file,discard=unmap"]
            command += ["-blockdev", "driver=raw,file=file,node-name=disk,discard=unmap,detect-zeroes=unmap"]
        qemu = subprocess.Popen([*command, "-machine", machine], pass_fds=[theirs.fileno()])
        stack.callback(qemu.wait)
        stack.callback(qemu.kill)
        console = stack.enter_context(ours.makefile("rb"))

        def wait(word: bytes) -> None:
            # The terminal echoes scripts, so a word counts only as a whole line.
            for line in console:
                if line.strip() == word:
                    return
            raise AssertionError("the plain guest has ended")

        def run(script: str) -> None:
            ours.sendall(f"{script}; echo done\n".encode())
            wait(b"done")

        wait(b"ready")
        pids = [qemu.pid]
        if shared:
            # virtiofsd serves in a child with namespaces of its own.
            done = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True)
            pids += [server.pid, *map(int, done.stdout.split())]
        yield run, pids
