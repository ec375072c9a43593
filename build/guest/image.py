"""Builds the guest image: an ELF kernel that boots by PVH, and an initrd with Python, the tether and their dependencies.

    python build/guest/image.py [--cache DIR] [--link PATH]

Prints the folder that holds `vmlinux`, `initrd`, `modules.squashfs`, `guest.iso` (all of them, as a boot CD) and `manifest.json`.
README.md of build/ says what the build needs and what it caches.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
if not __package__:
    # Run as a script, where Python looks for modules in this folder only.
    sys.path.insert(0, str(ROOT))

from build.guest.iso import write_iso  # noqa: E402
from build.guest.modules_disk import HEADERS, device_nodes, header_packages, modules_disk  # noqa: E402

WHEELS = ("protobuf", "hpack", "trio", "outcome", "sniffio", "attrs", "sortedcontainers", "idna")
PYTHON = "usr/lib/python3.11"

_KEPT, _KEPT_SECONDS = 8, 86400
# The parts of the standard library and of wheels that the tether never imports. A small initrd boots faster.
_LEFT_OUT = re.compile(
    r"(^|/)(test|tests|_tests|testing|[^/]*\.dist-info|idlelib|tkinter|turtledemo|ensurepip|lib2to3|distutils|pydoc_data|unittest|sqlite3|curses|dbm|venv|xmlrpc|"
    r"wsgiref|config-3[^/]*|__pycache__|asyncio|multiprocessing|concurrent|xml|email|html|http|urllib/robotparser\.py|"
    r"__phello__|pydoc\.py|doctest\.py|turtle\.py|pickletools\.py|_pydecimal\.py|_pyio\.py|cgi\.py|pdb\.py|"
    r"mailbox\.py|smtplib\.py|imaplib\.py|ftplib\.py|nntplib\.py|poplib\.py|telnetlib\.py)(/|$)"
)
_CODECS = re.compile(r"/encodings/(?!__init__|aliases|utf_8|latin_1|ascii|idna|raw_unicode_escape|unicode_escape)")
_EXTENSIONS = re.compile(
    r"/lib-dynload/(?!_ctypes\.|_json|_struct|_posixsubprocess|fcntl|select|math|_random|_bisect|_heapq|"
    r"_sha|_blake2|array|binascii|zlib|_socket|termios|resource|_datetime|mmap|_opcode|grp|_queue|_contextvars|_typing|_ssl|_hashlib|_md5)"
)
_LIBRARIES = re.compile(
    r"lib/x86_64-linux-gnu/(libc\.so\.6|libm\.so\.6|libz\.so|libexpat\.so|libffi\.so|libseccomp\.so|libgcc_s|libproc2|libext2fs\.so|libe2p\.so|libcom_err\.so|libblkid\.so|libuuid\.so|libsystemd|libcap\.so|libgcrypt|libgpg-error|liblz4|liblzma|libzstd|libstdc\+\+|libssl\.so|libcrypto\.so|"
    r"libdl\.so\.2|libpthread\.so\.0|libutil\.so\.1|ld-linux)"
)


def run(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def listed(name: str) -> list[str]:
    lines = (HERE / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def resolve_packages() -> dict[str, str]:
    """Return {package: version}; the kernel's meta package is replaced by the one it depends on."""
    names = listed("packages.txt")
    depends = run("apt-cache", "depends", "--no-recommends", names[0])
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if kernel is None:
        sys.exit(f"{names[0]} is not known to apt: run `apt-get update` first")
    names[0] = kernel[1]
    headers = header_packages(kernel[1], "")[0]
    names += header_packages(kernel[1], run("apt-cache", "depends", "--no-recommends", headers))
    versions = {}
    for name in names:
        found = re.search(r"^Version: (\S+)", run("apt-cache", "show", "--no-all-versions", name), re.M)
        if found is None:
            sys.exit(f"{name} is not known to apt: run `apt-get update` first")
        versions[name] = found[1]
    return versions


def fetch_packages(versions: dict[str, str], downloads: Path) -> list[Path]:
    downloads.mkdir(parents=True, exist_ok=True)
    files = []
    for name, version in versions.items():
        pattern = f"{name}_{version.replace(':', '%3a')}_*.deb"
        if not list(downloads.glob(pattern)):
            run("apt-get", "download", "-q", f"{name}={version}", cwd=downloads)
        files.append(next(downloads.glob(pattern)))
    return files


def wheel_versions() -> dict[str, str]:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    return {name: pinned[name] for name in WHEELS}


def fetch_wheels(versions: dict[str, str], downloads: Path) -> Path:
    """Download and unpack wheels for the guest's Python, which may differ from the Python that builds. Returns their folder."""
    key = "-".join(f"{name}{version}" for name, version in versions.items())
    target = downloads / f"wheels-{key}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(dir=downloads))
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-compile",
            "--target",
            str(partial),
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
            "--platform",
            "manylinux2014_x86_64",
            "--only-binary=:all:",
            *(f"{name}=={version}" for name, version in versions.items()),
        )
        partial.rename(target)
    return target


def our_sources() -> list[Path]:
    return sorted(
        path for top in ("tether", "protos") for path in (ROOT / top).rglob("*.py") if "__pycache__" not in path.parts
    )


def input_key(packages: dict[str, str], wheels: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([packages, wheels, sys.version_info[:2]]).encode())
    for path in [*our_sources(), *sorted(p for p in HERE.iterdir() if p.is_file())]:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


def elf_kernel(image: bytes) -> bytes:
    """The ELF vmlinux out of Debian's bzImage (boot protocol: payload_offset, payload_length at 0x248; lz4 payload)."""
    setup_sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The payload ends with the unpacked size, which lz4 reports as trailing garbage: ignore its exit status.
    kernel = subprocess.run(["lz4", "-dc"], input=image[start : start + length], capture_output=True).stdout
    if kernel[:4] != b"\x7fELF":
        sys.exit("the kernel's payload is not lz4: cannot extract the ELF image")
    return kernel


def module_closures(tree: Path) -> dict[str, list[list[Path]]]:
    """For each time of loading, the modules, each after the modules that it depends on: the order in which insmod can load them."""
    files = {path.name.removesuffix(".ko").replace("-", "_"): path for path in tree.rglob("*.ko")}
    builtin = "\n".join(path.read_text() for path in tree.rglob("modules.builtin"))

    def closure(name: str, into: list[Path]) -> None:
        name = name.replace("-", "_")
        path = files.get(name)
        if path is None:
            if f"/{name}.ko" not in builtin.replace("-", "_"):
                sys.exit(f"kernel module {name} is neither in the package nor built in")
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in filter(None, (depends[1] if depends else b"").decode().split(",")):
            closure(needed, into)
        if path not in into:
            into.append(path)

    found: dict[str, list[list[Path]]] = {"boot": [], "serial": [], "later": [], "disk": [], "cd": []}
    for line in listed("modules.txt"):
        when, name = line.split()
        group: list[Path] = []
        closure(name, group)
        found[when].append(group)
    booted = {path for group in found["boot"] for path in group}
    for when in ("serial", "later", "disk", "cd"):
        found[when] = [[path for path in group if path not in booted] for group in found[when]]
    return found


class Initrd:
    """A cpio archive in the `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst), without times."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes]] = {}

    def add(self, path: str, mode: int, data: bytes = b"") -> None:
        parent = os.path.dirname(path)
        if parent and parent not in self._entries:
            self.add(parent, stat.S_IFDIR | 0o755)
        self._entries[path] = (mode, data)

    def encode(self) -> bytes:
        out = bytearray()
        for inode, (path, (mode, data)) in enumerate(self._items(), 1):
            name = path.encode() + b"\0"
            fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
            out += b"070701" + b"".join(b"%08x" % field for field in fields) + name
            out += bytes(-len(out) % 4) + data
            out += bytes(-len(out) % 4)
        return bytes(out)

    def _items(self) -> Iterator[tuple[str, tuple[int, bytes]]]:
        yield from sorted(self._entries.items())
        yield "TRAILER!!!", (0, b"")


_COMPILE = """
import sys, marshal, importlib.util
# Sourceless: the header's flags and time are never checked, so they are zero and the result is reproducible.
for line in sys.stdin:
    source, name, target = line.rstrip("\\n").split("\\t")
    with open(source, "rb") as file:
        code = compile(file.read(), name, "exec", dont_inherit=True, optimize=1)
    with open(target, "wb") as out:
        out.write(importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
"""


def add_python(initrd: Initrd, sources: list[tuple[Path, str]], work: Path) -> None:
    """Compile (file, path in the guest) pairs to sourceless bytecode; constant docstrings stay (optimize=1)."""
    lines = []
    targets = []
    for index, (source, path) in enumerate(sources):
        target = work / f"{index}.pyc"
        lines.append(f"{source}\t{path}\t{target}\n")
        targets.append((path.removesuffix(".py") + ".pyc", target))
    subprocess.run([sys.executable, "-I", "-c", _COMPILE], input="".join(lines), text=True, check=True)
    for path, target in targets:
        initrd.add(path, stat.S_IFREG | 0o644, target.read_bytes())


def build_initrd(tree: Path, wheels: Path, nodes: str, work: Path) -> bytes:
    """The initrd. `nodes` is the list of device nodes whose first use loads a module of the modules disk."""
    initrd = Initrd()
    for directory in ("dev", "proc", "sys", "run", "tmp", "bin", "etc", "mnt"):
        initrd.add(directory, stat.S_IFDIR | 0o755)
    initrd.add("dev/console", stat.S_IFCHR | 0o600)  # replaced by devtmpfs before anyone opens it
    initrd.add("init", stat.S_IFREG | 0o755, (HERE / "init").read_bytes())
    initrd.add("init.second", stat.S_IFREG | 0o644, (HERE / "init.second").read_bytes())
    initrd.add("usr/bin/tini-static", stat.S_IFREG | 0o755, (tree / "usr/bin/tini-static").read_bytes())
    # For `docker top`, with all of its options.
    initrd.add("bin/ps", stat.S_IFREG | 0o755, (tree / "bin/ps").read_bytes())
    # The guest formats disks on datastores, which the appliance cannot write to.
    initrd.add("bin/mke2fs", stat.S_IFREG | 0o755, (tree / "sbin/mke2fs").read_bytes())
    # ps shows the names of users from the guest's own file.
    initrd.add("etc/passwd", stat.S_IFREG | 0o644, b"root:x:0:0:root:/:/bin/sh\n")
    initrd.add("lib64", stat.S_IFLNK | 0o777, b"lib/x86_64-linux-gnu")
    for name in ("dhcp-event", "modprobe", "mount-modules"):
        initrd.add(f"bin/{name}", stat.S_IFREG | 0o755, (HERE / name).read_bytes())
    initrd.add("lib/modules/nodes.list", stat.S_IFREG | 0o644, nodes.encode())
    initrd.add("bin/busybox", stat.S_IFREG | 0o755, (tree / "bin/busybox").read_bytes())
    initrd.add("usr/bin/python3.11", stat.S_IFREG | 0o755, (tree / "usr/bin/python3.11").read_bytes())

    python: list[tuple[Path, str]] = [(HERE / "guest.py", f"{PYTHON}/guest.py")]
    python += [(path, f"{PYTHON}/{path.relative_to(ROOT)}") for path in our_sources()]
    for top in (tree, wheels):
        for path in sorted(top.rglob("*")):
            inside = str(path.relative_to(top)) if top == tree else f"{PYTHON}/{path.relative_to(top)}"
            if path.is_dir() or (inside.startswith(PYTHON) and _LEFT_OUT.search(inside[len(PYTHON) :])):
                continue
            if inside.startswith(PYTHON) and path.suffix == ".py":
                if not _CODECS.search(inside):
                    python.append((path.resolve(), inside))
            elif inside.startswith(PYTHON) and ".so" in path.name:
                if top == wheels or not _EXTENSIONS.search(inside):
                    initrd.add(inside, stat.S_IFREG | 0o755, path.read_bytes())
            elif top == tree and _LIBRARIES.search(inside):
                # The name that the dynamic loader looks for: this root has no usrmerge links.
                place = f"lib/x86_64-linux-gnu/{path.name}"
                if path.is_symlink():
                    initrd.add(place, stat.S_IFLNK | 0o777, os.readlink(path).rpartition("/")[2].encode())
                else:
                    initrd.add(place, stat.S_IFREG | 0o755, path.read_bytes())
    add_python(initrd, python, work)

    # `init` loads one module per line; the tether loads all modules of the line of the module that it needs.
    for when, groups in module_closures(tree / "lib/modules").items():
        paths = dict.fromkeys(path for group in groups for path in group)
        for path in paths:
            initrd.add(f"lib/modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes())
        lines = [[path] for path in paths] if when != "later" else [group for group in groups if group]
        text = "".join(" ".join(f"/lib/modules/{path.name}" for path in line) + "\n" for line in lines)
        initrd.add(f"lib/modules/{when}.list", stat.S_IFREG | 0o644, text.encode())
    return initrd.encode()


def build(cache: Path) -> Path:
    """The folder of the guest image for the current inputs, from the cache or newly built."""
    packages, wheels = resolve_packages(), wheel_versions()
    key = input_key(packages, wheels)
    target = cache / "guest" / key
    if (target / "manifest.json").exists():
        os.utime(target)
        return target
    downloads = cache / "downloads"
    files = fetch_packages(packages, downloads)
    wheel_tree = fetch_wheels(wheels, downloads)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work_name:
        work = Path(work_name)
        tree = work / "tree"

        def unpack(target: Path, *, headers: bool = True) -> None:
            for file in files:
                if file.name.startswith(HEADERS) == headers:
                    run("dpkg-deb", "-x", str(file), str(target))

        unpack(tree, headers=False)
        out = work / "out"
        out.mkdir()
        (work / "pyc").mkdir()
        kernel = next((tree / "boot").glob("vmlinuz-*")).read_bytes()
        (out / "vmlinux").write_bytes(elf_kernel(kernel))
        modules = modules_disk(cache, packages, tree, unpack)
        shutil.copyfile(modules / "modules.squashfs", out / "modules.squashfs")
        nodes = device_nodes((modules / "modules.devname").read_text())
        (out / "initrd").write_bytes(build_initrd(tree, wheel_tree, nodes, work / "pyc"))
        write_iso(kernel, out / "initrd", out / "modules.squashfs", work, out / "guest.iso")
        names = ("vmlinux", "initrd", "modules.squashfs", "guest.iso")
        digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
        manifest = {"packages": packages, "wheels": wheels, "sha256": digests}
        (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        try:
            out.rename(target)
        except OSError:
            if not (target / "manifest.json").exists():  # else a concurrent build has made the same folder
                raise
    _remove_old(target.parent)
    return target


def _remove_old(images: Path) -> None:
    """Remove guest images beyond the newest, but for those of the last day: a running vchd may boot VMs from them."""
    for old in sorted(images.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        if old.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the guest image of vch.")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch"
    parser.add_argument("--cache", type=Path, default=default, help="folder for downloads and results")
    parser.add_argument("--link", type=Path, help="symbolic link to point at the result")
    options = parser.parse_args()
    target = build(options.cache)
    if options.link is not None:
        options.link.parent.mkdir(parents=True, exist_ok=True)
        partial = options.link.with_name(f"{options.link.name}.{os.getpid()}")
        partial.symlink_to(target)
        partial.replace(options.link)
    print(target)


if __name__ == "__main__":
    main()
