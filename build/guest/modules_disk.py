"""The modules disk: all modules of the guest kernel, the headers to build further modules, and modprobe, as a squashfs image.

A guest mounts the disk when it first needs one of these files. squashfs packs the many small headers into half of what EROFS takes.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

# Packages whose files only the modules disk has.
HEADERS = ("linux-headers-", "linux-kbuild-")
_OPTIONS = "-quiet -no-progress -noappend -all-root -all-time 0 -mkfs-time 0 -comp zstd -Xcompression-level 9 -b 64K"


def header_packages(kernel: str, dependencies: str) -> list[str]:
    """The packages with the headers of the kernel package `kernel`; `dependencies` is apt's description of the first of them."""
    headers = kernel.replace("linux-image-", HEADERS[0], 1)
    names = [line.split(":", 1)[1].strip() for line in dependencies.splitlines() if "Depends:" in line]
    return [headers, *(name for name in names if name.startswith(HEADERS))]


def modules_disk(cache: Path, packages: Mapping[str, str], tree: Path, unpack: Callable[[Path], None]) -> Path:
    """The folder with the files `modules.squashfs` and `modules.devname`, from the cache or newly written.

    `packages` are all of the guest's with their versions. `tree` holds the kernel and kmod; `unpack` unpacks the packages with headers.
    An edit in the tether does not change this disk, which takes most of a build's time.
    """
    inputs = {name: version for name, version in packages.items() if name.startswith(("linux-", "kmod"))}
    recipe = [inputs, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]
    target = cache / "modules" / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.iterdir():
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache) as work_name:
        work = Path(work_name)
        unpack(work / "headers")
        (work / "out").mkdir()
        nodes = write_modules_disk(tree, work / "headers", work, work / "out/modules.squashfs")
        (work / "out/modules.devname").write_text(nodes)
        try:
            (work / "out").rename(target)
        except OSError:
            if not target.exists():  # else a concurrent build has written the same disk
                raise
    return target


def write_modules_disk(tree: Path, headers: Path, work: Path, target: Path) -> str:
    """Write the modules disk. Return the list of device nodes whose first use loads a module: modules.devname of kmod.

    Needs squashfs-tools.
    """
    root = work / "modules"
    version = next((tree / "lib/modules").iterdir()).name
    modules = root / "lib/modules" / version
    shutil.copytree(tree / "lib/modules" / version, modules, symlinks=True)
    # Where kubeadm and others look for the configuration of the kernel.
    shutil.copyfile(tree / f"boot/config-{version}", modules / "config")
    for top in ("usr/src", "usr/lib"):
        shutil.copytree(headers / top, root / top, symlinks=True)
    for link in (headers / "lib/modules" / version).iterdir():
        shutil.copyfile(link, modules / link.name, follow_symlinks=False)
    (root / "sbin").mkdir()
    shutil.copyfile(tree / "bin/kmod", root / "sbin/modprobe")
    (root / "sbin/modprobe").chmod(0o755)
    # kmod's binary acts by the name that it is called by.
    _run(["depmod", "-b", str(root), version], executable=str(tree / "bin/kmod"))
    for path in root.rglob("*"):
        if not path.is_symlink():
            # The build's umask must not decide.
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    _run(["mksquashfs", str(root), str(target), *_OPTIONS.split()])
    with open(target, "ab") as image:
        image.truncate(-(-target.stat().st_size // 4096) * 4096)
    return (modules / "modules.devname").read_text()


def device_nodes(devname: str) -> str:
    """The lines of modules.devname as the guest reads them: `PATH c|b MAJOR MINOR`, with the loop devices of the module loop."""
    nodes = []
    for line in devname.splitlines():
        if line and not line.startswith("#"):
            _, path, device = line.split()
            major, minor = device[1:].split(":")
            nodes.append(f"{path} {device[0]} {major} {minor}\n")
    # The kernel also loads `loop` for the block devices, when one of them is opened (CONFIG_BLOCK_LEGACY_AUTOLOAD).
    nodes += [f"loop{number} b 7 {number}\n" for number in range(8)]
    return "".join(nodes)


def _run(command: list[str], executable: str | None = None) -> None:
    environment = {**os.environ, "TZ": "UTC"}
    environment.pop("SOURCE_DATE_EPOCH", None)  # excludes the options for times
    done = subprocess.run(command, executable=executable, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
