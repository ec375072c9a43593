"""The root file system of the appliance: Debian's packages, vchd in a virtual environment, and the files of build/ova/root."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from build.ova import disk
from build.ova.commands import run

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
_VENV = "opt/vch"
_ACCOUNT = 900
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
# Files without use in an appliance: no package is ever installed there.
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

# Units that write to the read-only root, or that need files which are not there.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
)


def packages() -> list[str]:
    """The names of Debian's packages for the appliance."""
    return [line for line in (HERE / "packages.txt").read_text().splitlines() if line and not line.startswith("#")]


def sources() -> str:
    """The archives that apt of this host uses, as lines of sources.list."""
    wanted = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = dict.fromkeys(run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages").splitlines())
    if not lines:
        sys.exit("apt has no package lists: run `apt-get update` first")
    return "\n".join(lines) + "\n"


def archive_state() -> str:
    """A digest of the archives' package lists."""
    digest = hashlib.sha256()
    for name in sorted(run("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").split()):
        path = Path(name)
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


_HOOKS = (
    # An initrd with the few drivers that find the root.
    "--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d $1/usr/share/initramfs-tools/modules.d",
    "--essential-hook=printf 'MODULES=list\\nCOMPRESS=zstd\\nFSTYPE=erofs\\n' > $1/etc/initramfs-tools/conf.d/vch",
    "--essential-hook=printf 'vmw_pvscsi\\nsd_mod\\nvirtio_pci\\nvirtio_scsi\\nvirtio_blk\\nata_piix\\nerofs\\nnls_ascii\\n'"
    " > $1/usr/share/initramfs-tools/modules.d/vch",
    f"--customize-hook=chroot $1 useradd --system --uid {_ACCOUNT} --home-dir /data/vch --shell /usr/sbin/nologin vch",
    # No random ids: the same inputs give the same bytes.
    "--customize-hook=chroot $1 sh -c 'rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id; : > /etc/machine-id'",
)


def debian_root(cache: Path, work: Path) -> Path:
    """A tar of the root file system with Debian's packages alone, cached by itself since it is most of the work."""
    recipe = json.dumps([packages(), archive_state(), _ACCOUNT, _HOOKS]).encode()
    target = cache / "ova/base" / f"{hashlib.sha256(recipe).hexdigest()[:24]}.tar"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = work / "base.tar"
    options = [f"--dpkgopt=path-exclude=/{path}/*" for path in ("usr/share/man", "usr/share/locale", "usr/share/info")]
    # The licence of each package stays.
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


def site_packages(work: Path) -> Path:
    """The Python packages that vchd depends on, for the Python of the appliance, which may differ from the Python that builds."""
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
        *(word for platform in _PLATFORMS for word in ("--platform", platform)),
        "-c",
        str(TOP / "constraints.txt"),
        *project["dependencies"],
    )
    # pip's records depend on the host that builds.
    for path in target.glob("*.dist-info"):
        for name in ("direct_url.json", "RECORD", "INSTALLER", "REQUESTED"):
            (path / name).unlink(missing_ok=True)
    shutil.rmtree(target / "bin", ignore_errors=True)
    return target


def our_sources() -> list[Path]:
    """The files of vch that go into the appliance."""
    return sorted(
        path
        for top in ("appliance", "tether", "protos")
        for path in (TOP / top).rglob("*")
        if path.suffix in (".py", ".md")
    )


def add_venv(root: Path, work: Path, guest: Path, builder: Path | None = None) -> None:
    """Put vchd, `vch`, the guest image and, if there is one, the archive of the builder's image into a virtual environment."""
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
    # On vSphere VMs boot from the CD; only QEMU needs kernel and initrd as files.
    for name in ("guest.iso", "manifest.json"):
        shutil.copyfile(guest / name, share / name)
    if builder is not None:
        shutil.copyfile(builder, share.parent / "builder.tar")
    compile_python(root, [venv, root / "usr/lib/python3", root / "usr/lib/python3.11"])


def compile_python(root: Path, folders: Sequence[Path]) -> None:
    """Compile Python's bytecode, which is never checked against the source, since the root does not change.

    Bytecode depends on the hash seed and on what the process has compiled before: each folder gets a process of its own.
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
        # The exit status means nothing: some sources are templates, or for another Python.
        program.wait()


def make_root(tree: Path, work: Path, guest: Path, builder: Path | None = None) -> tuple[Path, Path]:
    """Complete the root beyond Debian's packages. Returns the files of the kernel and the initrd, which are on another partition."""
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
    # agetty reads /run/issue.d, which vch-provision writes, only when there is no /etc/issue.
    for name in ("etc/resolv.conf", "etc/issue", "etc/issue.net", "etc/motd", "etc/hostname"):
        (tree / name).unlink(missing_ok=True)
    (tree / "etc/resolv.conf").symlink_to("/run/systemd/resolve/resolv.conf")
    (tree / "etc/hostname").write_text("vch\n")
    (tree / "etc/default/locale").write_text("LANG=C.UTF-8\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    run("systemctl", f"--root={tree}", "enable", "-q", *_ENABLED)
    run("systemctl", f"--root={tree}", "mask", "-q", *_MASKED)
    run("systemctl", f"--root={tree}", "set-default", "-q", "multi-user.target")
    add_venv(tree, work, guest, builder)
    return kernel, initrd


def erofs(tree: Path, target: Path) -> None:
    """Make the read-only file system of the root."""
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
