"""Builds the appliance as an OVA.

    python -m build.ova.image [--cache DIR] [--out FILE] [--sign-key PEM --sign-cert PEM]

Prints the path of the OVA. README.md of build/ says what the build needs and what it caches.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from appliance import __version__
from build.ova import disk
from build.ova.commands import run
from build.ova.pack import pack
from build.ova.rootfs import HERE, TOP, debian_root, erofs, make_root, our_sources

NAME = f"vch-{__version__}"
_OPTIONS = "ro rootfstype=erofs systemd.volatile=state systemd.gpt_auto=no console=ttyS0,115200 console=tty0 quiet net.ifnames=1"


def input_key(base_tar: Path, guest: Path) -> str:
    """The digest of everything that the OVA is made of, which names its folder in the cache."""
    digest = hashlib.sha256(f"{base_tar.name} {(guest / 'manifest.json').read_text()}".encode())
    ours = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*our_sources(), *ours, TOP / "pyproject.toml", TOP / "constraints.txt"]):
        digest.update(f"{path.relative_to(TOP)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


def build(cache: Path, signer: tuple[Path, Path] | None = None) -> Path:
    """The OVA for the current inputs, from the cache or newly built. A signed OVA is always built anew."""
    if os.geteuid():
        sys.exit("run this as root: the files of the appliance belong to root")
    (cache / "ova").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "ova") as folder:
        work = Path(folder)
        base_tar = debian_root(cache, work)
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
    parser.add_argument("--cache", type=Path, default=default, help="folder for downloads and results")
    parser.add_argument("--out", type=Path, help="copy the OVA to this file")
    parser.add_argument("--sign-key", type=Path, help="PEM: the RSA key to sign the manifest with")
    parser.add_argument("--sign-cert", type=Path, help="PEM: the certificate of that key")
    options = parser.parse_args()
    if (options.sign_key is None) != (options.sign_cert is None):
        parser.error("--sign-key and --sign-cert belong together")
    made = build(options.cache, (options.sign_key, options.sign_cert) if options.sign_key else None)
    if options.out is not None:
        shutil.copyfile(made, options.out)
    print(options.out or made)


if __name__ == "__main__":
    main()
