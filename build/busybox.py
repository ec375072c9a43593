"""Writes an image archive (docker load reads it) of Debian's static busybox to standard output, for the first container of `make run`."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile

_PROGRAM = "/bin/busybox"


def layer(program: str = _PROGRAM) -> bytes:
    """The tar of the layer: busybox, a link for each applet, and the few files that programs expect."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, mode: int, data: bytes | None = None, link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            elif data is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data or b""))

        for name, mode in (
            ("bin", 0o755),
            ("etc", 0o755),
            ("root", 0o700),
            ("tmp", 0o1777),
            ("home", 0o755),
            ("var", 0o755),
        ):
            add(name, mode)
        with open(program, "rb") as file:
            add("bin/busybox", 0o755, file.read())
        for applet in subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                add(f"bin/{applet}", 0o777, link="busybox")
        users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
        add("etc/passwd", 0o644, users.encode())
        add("etc/group", 0o644, b"root:x:0:\ntty:x:5:\nusers:x:100:nobody\nnogroup:x:65534:\n")
    return out.getvalue()


def archive(layers: list[bytes], config: dict[str, object], name: str) -> bytes:
    """An archive, in the format of docker save, of one image with these layers (uncompressed tars) and this configuration."""
    diff_ids = [f"sha256:{hashlib.sha256(item).hexdigest()}" for item in layers]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "vch"} for _ in layers],
    }
    encoded = json.dumps(image).encode()
    config_name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    names = [f"{diff_id[7:]}/layer.tar" for diff_id in diff_ids]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": names}]).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, data in [(config_name, encoded), *zip(names, layers, strict=True), ("manifest.json", manifest)]:
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


if __name__ == "__main__":
    sys.stdout.buffer.write(archive([layer()], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "busybox:latest"))
