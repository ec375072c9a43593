"""Builds the appliance as an OVA.

    python -m build.ova.image [--cache DIR] [--out FILE] [--sign-key PEM --sign-cert PEM] [--builder-image FILE | --no-builder-image]

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
from build.builder.image import build as build_builder
from build.ova import disk
from build.ova.commands import run
from build.ova.pack import pack
from build.ova.rootfs import HERE, TOP, debian_root, erofs, make_root, our_sources

NAME = f"vch-{__version__}"
_OPTIONS = "ro rootfstype=erofs systemd.volatile=state systemd.gpt_auto=no console=ttyS0,115200 console=tty0 quiet net.ifnames=1"


def input_key(base_tar: Path, guest: Path, builder: Path | None = None) -> str:
    """The digest of everything that the OVA is made of, which names its folder in the cache."""
    digest = hashlib.sha256(f"{base_tar.name} {(guest / 'manifest.json').read_text()}".encode())
    if builder is not None:
        with open(builder, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    ours = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*our_sources(), *ours, TOP / "pyproject.toml", TOP / "constraints.txt"]):
        digest.update(f"{path.relative_to(TOP)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


def builder_archive(cache: Path) -> Path | None:
    """The archive of the builder's image, from the cache or newly built; None, with a note on stderr, where no Go is."""
    if shutil.which("go") is None:
        print(
            "There is no Go, so this OVA has no image of the builder: the appliance pulls the image at the first build. "
            "--builder-image FILE takes the archive that `make builder-image` printed on another host.",
            file=sys.stderr,
        )
        return None
    return build_builder(cache)


def build(cache: Path, signer: tuple[Path, Path] | None = None, builder: Path | None = None) -> Path:
    """The OVA for the current inputs, from the cache or newly built. A signed OVA is always built anew.

    `builder`: an archive (docker save) with the image of the builder.
    """
    if os.geteuid():
        sys.exit("run this as root: the files of the appliance belong to root")
    (cache / "ova").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "ova") as folder:
        work = Path(folder)
        base_tar = debian_root(cache, work)
        guest = Path(run(sys.executable, str(TOP / "build/guest/image.py"), "--cache", str(cache)).strip())
        target = cache / "ova" / input_key(base_tar, guest, builder) / f"{NAME}.ova"
        if target.exists() and signer is None:
            return target
        tree = work / "tree"
        tree.mkdir()
        run("tar", "--numeric-owner", "-C", str(tree), "-xf", str(base_tar))
        kernel, initrd = make_root(tree, work, guest, builder)
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
    image = parser.add_mutually_exclusive_group()
    image.add_argument(
        "--builder-image", type=Path, metavar="FILE", help="archive of the builder's image (default: build it)"
    )
    image.add_argument("--no-builder-image", action="store_true", help="leave the builder's image out of the OVA")
    options = parser.parse_args()
    if (options.sign_key is None) != (options.sign_cert is None):
        parser.error("--sign-key and --sign-cert belong together")
    builder = options.builder_image
    if builder is None and not options.no_builder_image:
        builder = builder_archive(options.cache)
    made = build(options.cache, (options.sign_key, options.sign_cert) if options.sign_key else None, builder)
    if options.out is not None:
        shutil.copyfile(made, options.out)
    print(options.out or made)


if __name__ == "__main__":
    main()
