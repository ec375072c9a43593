"""Builds the image of the builder as an archive for `docker load`: buildkitd and buildctl, and Debian's runc, git, CNI plugins and more.

    python -m build.builder.image [--cache DIR]

Prints the path of the archive. It has the name of the image that `--builder-image` names by default, and does what that image does, for
hosts that cannot pull it.
"""

import argparse
import hashlib
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from build.go_programs import BUILDKIT_VERSION, buildctl, buildkitd
from build.ova.commands import run
from build.ova.disk import EPOCH
from build.ova.rootfs import archive_state, sources

NAME = f"moby/buildkit:v{BUILDKIT_VERSION}"
PACKAGES = ("runc", "git", "openssh-client", "ca-certificates", "iptables", "containernetworking-plugins")
# Of all CNI plugins, those that BuildKit uses for a bridge; it finds them by these names.
_PLUGINS = ("bridge", "firewall", "host-local", "loopback")
_PLUGIN_HOOK = f"for name in {' '.join(_PLUGINS)}; do mv $1/usr/lib/cni/$name $1/usr/bin/buildkit-cni-$name; done; rm -r $1/usr/lib/cni"
_REMOVED = ("man", "locale", "info", "doc", "lintian", "bash-completion")
# The archive is a quarter of its layer then; `docker load` takes compressed layers. Any number of threads gives the same bytes.
_COMPRESSION = ("zstd", "-q", "-15", "-T0")
_CONFIG = {
    "Entrypoint": ["buildkitd"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Volumes": {"/var/lib/buildkit": {}},
}


def build(cache: Path) -> Path:
    """The archive for the current inputs, from the cache or newly built; needs Go, mmdebstrap, and the rights of root."""
    programs = [buildkitd(), buildctl()]
    found = [program for program in programs if program is not None]
    if len(found) < len(programs):
        sys.exit("there is no Go to compile buildkitd with")
    names = [path.parent.name for path in found]
    recipe = json.dumps([NAME, PACKAGES, _PLUGINS, _REMOVED, _CONFIG, _COMPRESSION, names, archive_state()])
    target = cache / "builder" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.tar"
    if target.exists():
        return target
    if os.geteuid():
        sys.exit("run this as root: the files of the image belong to root")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        layer = Path(folder) / "layer.tar"
        options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _REMOVED]
        # The licence of each package stays.
        options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        hooks = [f"--customize-hook=copy-in {path} /usr/bin" for path in found]
        hooks.append(f"--customize-hook={_PLUGIN_HOOK}")
        hooks.append("--customize-hook=rm -rf $1/var/lib/apt $1/var/cache/apt $1/var/log $1/var/lib/dpkg/info")
        run(
            "mmdebstrap",
            "--variant=minbase",
            *options,
            *hooks,
            f"--include={','.join(PACKAGES)}",
            "bookworm",
            str(layer),
            "-",
            environment={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "LC_ALL": "C.UTF-8"},
            given=sources(),
        )
        made = Path(folder) / "image.tar"
        write_archive(layer, made)
        for old in target.parent.glob("*.tar"):
            old.unlink()
        made.rename(target)
    return target


def write_archive(layer: Path, target: Path) -> None:
    """An archive, in the format of docker save, of the image with this layer."""
    with open(layer, "rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    image = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": _CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        "history": [{"created_by": "vch"}],
    }
    config = json.dumps(image).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{diff_id}/layer.tar"
    packed = target.parent / "layer.tar.zst"
    run(*_COMPRESSION, "-f", str(layer), "-o", str(packed))
    manifest = json.dumps([{"Config": config_name, "RepoTags": [NAME], "Layers": [layer_name]}]).encode()
    with tarfile.open(target, "w") as tar, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, data in ((config_name, config), ("manifest.json", manifest)):
            path = Path(folder) / name
            path.write_bytes(data)
            tar.add(path, name, filter=_anonymous)
        tar.add(packed, layer_name, filter=_anonymous)
    packed.unlink()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same inputs give the same bytes."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the image of vch's builder.")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch"
    parser.add_argument("--cache", type=Path, default=default, help="folder for downloads and results")
    print(build(parser.parse_args().cache))


if __name__ == "__main__":
    main()
