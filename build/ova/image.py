"""Build the appliance as an OVA.

    python -m build.ova.image [--cache DIR] [--out FILE] [--sign-key PEM --sign-cert PEM]

Prints the file. Its folder in the cache is named by the digest of everything that goes in (the archive's state, packages, wheels, the
guest, our sources, this recipe), so a second run finds it there; the root of Debian's packages is kept by itself, since it is most of
the work. Needs the rights of root (owners of files), mmdebstrap, mkfs.erofs, GRUB's tools and mtools. Packages come from whatever archive
this machine's own apt is set up for; nothing of that is in the image. The same inputs give the same bytes.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zlib
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance import __version__
from build.ova import disk, vmdk
from build.ova.descriptor import DATA_BYTES, Disk, descriptor

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
NAME = f"vch-{__version__}"
_VENV = "opt/vch"
_ACCOUNT = 900
_OPTIONS = "ro rootfstype=erofs systemd.volatile=state systemd.gpt_auto=no console=ttyS0,115200 console=tty0 quiet net.ifnames=1"
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
# What an appliance has no use for: nothing is installed in it, and nobody reads manuals there.
_REMOVED = (
    "etc/apt", "var/lib/apt", "var/cache", "var/log", "usr/share/man", "usr/share/locale", "usr/share/info",
    "usr/share/i18n", "usr/lib/apt", "boot", "initrd.img", "vmlinuz", "usr/share/lintian", "usr/share/bug", "dev", "proc", "run", "sys",
    "tmp",
    "usr/lib/python3.11/test", "usr/lib/python3.11/ensurepip", "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/pydoc_data",
)  # fmt: skip
_ENABLED = (
    "vchd",
    "vch-access",
    "vch-provision",
    "vch-firewall",
    "systemd-networkd",
    "systemd-resolved",
    "systemd-timesyncd",
    "open-vm-tools",
    "ssh",
)

# What writes where nothing can be written, or looks for what is not here.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
)


def run(
    *command: str, cwd: Path | None = None, environment: dict[str, str] | None = None, given: str | None = None
) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, input=given, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def packages() -> list[str]:
    return [line for line in (HERE / "packages.txt").read_text().splitlines() if line and not line.startswith("#")]


def sources() -> str:
    """This machine's archives, as apt has them."""
    wanted = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = dict.fromkeys(run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages").splitlines())
    if not lines:
        sys.exit("apt knows no archive: run `apt-get update` first")
    return "\n".join(lines) + "\n"


def archive_state() -> str:
    """A digest of what the archives offer today."""
    digest = hashlib.sha256()
    for name in sorted(run("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").split()):
        path = Path(name)
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def base(cache: Path, work: Path) -> Path:
    """The root of Debian's packages, as a tar."""
    recipe = json.dumps([packages(), archive_state(), _ACCOUNT, _HOOKS]).encode()
    target = cache / "ova/base" / f"{hashlib.sha256(recipe).hexdigest()[:24]}.tar"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = work / "base.tar"
    options = [f"--dpkgopt=path-exclude=/{path}/*" for path in ("usr/share/man", "usr/share/locale", "usr/share/info")]
    # A package's licence stays with it.
    options += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": disk.EPOCH, "LC_ALL": "C.UTF-8"}
    run(
        "mmdebstrap",
        "--variant=minbase",
        *options,
        *_HOOKS,
        f"--include={','.join(packages())}",
        "bookworm",
        str(partial),
        "-",
        environment=environment,
        given=sources(),
    )
    for old in target.parent.iterdir():
        old.unlink()
    shutil.move(partial, target)
    return target


_HOOKS = (
    # The few drivers by which a root is found, rather than all that there are.
    "--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d $1/usr/share/initramfs-tools/modules.d",
    "--essential-hook=printf 'MODULES=list\\nCOMPRESS=zstd\\nFSTYPE=erofs\\n' > $1/etc/initramfs-tools/conf.d/vch",
    "--essential-hook=printf 'vmw_pvscsi\\nsd_mod\\nvirtio_pci\\nvirtio_scsi\\nvirtio_blk\\nata_piix\\nerofs\\nnls_ascii\\n'"
    " > $1/usr/share/initramfs-tools/modules.d/vch",
    f"--customize-hook=chroot $1 useradd --system --uid {_ACCOUNT} --home-dir /data/vch --shell /usr/sbin/nologin vch",
    # By what is not random.
    "--customize-hook=chroot $1 sh -c 'rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id; : > /etc/machine-id'",
)


def site_packages(work: Path) -> Path:
    """What vchd depends on, for the appliance's Python, whatever Python builds."""
    target = work / "site-packages"
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--target",
        str(target),
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
        "--only-binary=:all:",
        *(word for one in _PLATFORMS for word in ("--platform", one)),
        "-c",
        str(TOP / "constraints.txt"),
        *project["dependencies"],
    )
    # pip's own records hold where things came from.
    for path in target.glob("*.dist-info"):
        for name in ("direct_url.json", "RECORD", "INSTALLER", "REQUESTED"):
            (path / name).unlink(missing_ok=True)
    shutil.rmtree(target / "bin", ignore_errors=True)
    return target


def our_sources() -> list[Path]:
    return sorted(
        path
        for top in ("appliance", "tether", "protos")
        for path in (TOP / top).rglob("*")
        if path.suffix in (".py", ".md")
    )


def add_venv(root: Path, work: Path, guest: Path) -> None:
    """vchd in an environment of its own."""
    venv = root / _VENV
    library = venv / "lib/python3.11/site-packages"
    library.parent.mkdir(parents=True)
    shutil.copytree(site_packages(work), library)
    for path in our_sources():
        place = library / path.relative_to(TOP)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to("/usr/bin/python3.11")
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    for name, entry in scripts.items():
        module, function = entry.split(":")
        script = venv / "bin" / name
        script.write_text(f"#!/{_VENV}/bin/python -I\nfrom {module} import {function}\n\n{function}()\n")
        script.chmod(0o755)
    (root / "usr/local/bin/vch").symlink_to(f"/{_VENV}/bin/vch")
    share = venv / "share/vch/guest"
    share.mkdir(parents=True)
    # Machines boot from the CD; kernel and initrd by themselves are QEMU's.
    for name in ("guest.iso", "manifest.json"):
        shutil.copyfile(guest / name, share / name)
    compile_python(root, [venv, root / "usr/lib/python3", root / "usr/lib/python3.11"])


def compile_python(root: Path, folders: Sequence[Path]) -> None:
    """Python's bytecode, never checked against the source: the root does not change.

    What comes of a source depends on the seed of hashes, and on what the same process has compiled before: each folder is one's.
    """
    command = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "-q",
        "-f",
        "-s",
        str(root),
        "-p",
        "/",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    programs = [subprocess.Popen([*command, str(folder)], env=environment) for folder in folders]
    for program in programs:
        # A source that cannot be compiled has no bytecode: a template, or of another Python.
        program.wait()


def make_root(tree: Path, work: Path, guest: Path) -> tuple[Path, Path]:
    """What is beside Debian's packages; returns the kernel and the initrd, which are not in the root."""
    kernel, initrd = work / "vmlinuz", work / "initrd"
    shutil.copyfile(next((tree / "boot").glob("vmlinuz-*")), kernel)
    shutil.copyfile(next((tree / "boot").glob("initrd.img-*")), initrd)
    (tree / "usr/share/vch").mkdir(parents=True)
    versions = run("dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f=${Package} ${Version}\n")
    (tree / "usr/share/vch/packages").write_text(versions)
    for name in _REMOVED:
        if (tree / name).is_symlink() or (tree / name).is_file():
            (tree / name).unlink()
        else:
            shutil.rmtree(tree / name, ignore_errors=True)
    for name in ("boot", "dev", "proc", "run", "sys", "tmp", "data", "var/log/journal"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    shutil.copytree(HERE / "root", tree, dirs_exist_ok=True)
    # With an issue in /etc agetty looks for none in /run, which is ours.
    for name in ("etc/resolv.conf", "etc/issue", "etc/issue.net", "etc/motd", "etc/hostname"):
        (tree / name).unlink(missing_ok=True)
    (tree / "etc/resolv.conf").symlink_to("/run/systemd/resolve/resolv.conf")
    (tree / "etc/hostname").write_text("vch\n")
    (tree / "etc/default/locale").write_text("LANG=C.UTF-8\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    run("systemctl", f"--root={tree}", "enable", "-q", *_ENABLED)
    run("systemctl", f"--root={tree}", "mask", "-q", *_MASKED)
    run("systemctl", f"--root={tree}", "set-default", "-q", "multi-user.target")
    add_venv(tree, work, guest)
    return kernel, initrd


def erofs(tree: Path, target: Path) -> None:
    run(
        "mkfs.erofs",
        "-zlz4hc,12",
        "-T",
        disk.EPOCH,
        "-U",
        str(disk.ROOT_PARTITION),
        "--quiet",
        str(target),
        str(tree),
    )


def pack(
    name: str,
    system: Path,
    work: Path,
    target: Path,
    signer: tuple[Path, Path] | None = None,
    version: str = __version__,
) -> None:
    """A system's disk (raw) to an OVA: the descriptor first, then the digests, then the disks (DSP0243, 5.1)."""
    data = work / "data.raw"
    with data.open("wb") as file:
        file.truncate(DATA_BYTES)
    packed = [
        _packed("system", system, work / f"{name}-system.vmdk"),
        _packed("data", data, work / f"{name}-data.vmdk"),
    ]
    about = descriptor(name, packed, version)
    digests = f"SHA256({name}.ovf)= {hashlib.sha256(about).hexdigest()}\n"
    for one in packed:
        with (work / one.name).open("rb") as file:
            digests += f"SHA256({one.name})= {hashlib.file_digest(file, 'sha256').hexdigest()}\n"
    small = [(f"{name}.ovf", about), (f"{name}.mf", digests.encode())]
    if signer is not None:
        small.append((f"{name}.cert", signature(f"{name}.mf", digests.encode(), *signer)))
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in small:
            archive.addfile(_member(member, len(content)), io.BytesIO(content))
        for one in packed:
            with (work / one.name).open("rb") as file:
                archive.addfile(_member(one.name, one.size), file)


def _packed(identity: str, raw: Path, target: Path) -> Disk:
    # A number that stands for the content; of data there is none yet.
    content = zlib.crc32(raw.read_bytes()) if identity == "system" else 0
    with target.open("wb") as out:
        size, populated = vmdk.write(raw, out, content)
    return Disk(identity, target.name, size, raw.stat().st_size, populated)


def signature(name: str, manifest: bytes, key: Path, certificate: Path) -> bytes:
    """A .cert: the manifest's signature, and whose it is (DSP0243, 5.1)."""
    private = load_pem_private_key(key.read_bytes(), None)
    chain = certificate.read_bytes()
    x509.load_pem_x509_certificates(chain)
    if not isinstance(private, rsa.RSAPrivateKey):
        sys.exit(f"{key}: OVF's signatures are RSA's")
    made = private.sign(manifest, padding.PKCS1v15(), hashes.SHA256())
    return f"SHA256({name})= {made.hex()}\n".encode() + chain


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(disk.EPOCH), 0o644
    return info


def input_key(base_tar: Path, guest: Path) -> str:
    digest = hashlib.sha256(f"{base_tar.name} {(guest / 'manifest.json').read_text()}".encode())
    ours = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*our_sources(), *ours, TOP / "pyproject.toml", TOP / "constraints.txt"]):
        digest.update(f"{path.relative_to(TOP)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


def build(cache: Path, signer: tuple[Path, Path] | None = None) -> Path:
    """Return the OVA for the inputs of today, building it when it is not there yet."""
    if os.geteuid():
        sys.exit("an appliance's files are root's: run this as root")
    (cache / "ova").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "ova") as folder:
        work = Path(folder)
        base_tar = base(cache, work)
        guest = Path(run(sys.executable, str(TOP / "build/guest/image.py"), "--cache", str(cache)).strip())
        target = cache / "ova" / input_key(base_tar, guest) / f"{NAME}.ova"
        if target.exists() and signer is None:
            return target
        tree = work / "tree"
        tree.mkdir()
        run("tar", "--numeric-owner", "-C", str(tree), "-xf", str(base_tar))
        kernel, initrd = make_root(tree, work, guest)
        root, raw, made = work / "root.erofs", work / "disk.raw", work / f"{NAME}.ova"
        erofs(tree, root)
        disk.write(kernel, initrd, root, _OPTIONS, work, raw)
        pack(NAME, raw, work, made, signer)
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)
    for old in cache.glob("ova/*/*.ova"):
        if old != target:
            shutil.rmtree(old.parent)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the appliance of vch.")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch"
    parser.add_argument("--cache", type=Path, default=default, help="where downloads and results are kept")
    parser.add_argument("--out", type=Path, help="where to copy it to")
    parser.add_argument("--sign-key", type=Path, help="PEM: sign the manifest")
    parser.add_argument("--sign-cert", type=Path, help="PEM: of that key")
    options = parser.parse_args()
    if (options.sign_key is None) != (options.sign_cert is None):
        parser.error("--sign-key and --sign-cert belong together")
    made = build(options.cache, (options.sign_key, options.sign_cert) if options.sign_key else None)
    if options.out is not None:
        shutil.copyfile(made, options.out)
    print(options.out or made)


if __name__ == "__main__":
    main()
