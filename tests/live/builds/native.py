"""A vchd with a native buildkitd, and build clients against it: no VM runs."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from appliance.buildkit.config import BuildkitSettings, DoorAccess, buildkitd_toml
from appliance.buildkit.door_names import DOOR_HOST
from appliance.engine.builds.credentials import AUTHORITY, CERTIFICATE, KEY, BuilderKeys
from tests.live import gotools
from tests.live.buildkit_native import native_buildkitd
from tests.live.builds.native_vchd import VARIABLE, NativePlace
from tests.live.daemon import Daemon
from tests.live.programs import free_port

PATIENCE = 120


class BuildDaemon:
    """`daemon` is the vchd, `folder` is empty, `log` is the log of buildkitd."""

    def __init__(self, daemon: Daemon, folder: Path, log: Path) -> None:
        self.daemon = daemon
        self.folder = folder
        self.log = log

    def context(self, dockerfile: str, files: Mapping[str, str | bytes] = {}) -> Path:
        """A new folder with a Dockerfile and files."""
        folder = self.folder / f"context-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        for name, content in {"Dockerfile": dockerfile, **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    def environment(self) -> dict[str, str]:
        """For programs that find the daemon by it, and buildx as a plug-in of the docker CLI."""
        plugin = self.folder.parent / "docker/cli-plugins/docker-buildx"
        program = gotools.buildx()
        assert program is not None
        if not plugin.exists():
            plugin.parent.mkdir(parents=True)
            plugin.symlink_to(program)
        settings = {"DOCKER_HOST": self.daemon.host, "DOCKER_CONFIG": str(plugin.parent.parent)}
        return os.environ | settings | {"BUILDKIT_PROGRESS": "plain"}

    def start(self, *command: str, folder: Path | None = None) -> "subprocess.Popen[str]":
        """Start a build client."""
        return subprocess.Popen(
            command,
            cwd=folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *command: str, code: int = 0, folder: Path | None = None, seconds: float = PATIENCE
    ) -> tuple[str, str]:
        """stdout and stderr of a build client, which has to end with this exit code."""
        process = self.start(*command, folder=folder)
        said = " ".join(command)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{said} does not end:\n{out}{err}\n{self._logs()}") from None
        assert process.returncode == code, f"{said}: {process.returncode}\n{out}{err}\n{self._logs()}"
        return out, err

    def start_buildx(self, *arguments: str) -> "subprocess.Popen[str]":
        """buildx with its docker driver, which prints plain progress to stderr."""
        return self.start(str(gotools.buildx()), *arguments)

    def buildx(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of buildx, which has to end with this exit code."""
        return self.run(str(gotools.buildx()), *arguments, code=code)

    def _logs(self) -> str:
        return f"vchd: {self.daemon.log.read_text()[-3000:]}\nbuildkitd: {self.log.read_text()[-3000:]}"


@contextlib.contextmanager
def build_daemon(root: Path, config: str = "", flags: Sequence[str] = ()) -> Iterator[BuildDaemon]:
    """A started vchd with busybox loaded; its builds run in a native buildkitd. `config` is appended to buildkitd.toml."""
    if gotools.buildx() is None:
        pytest.skip("buildx needs Go to build it with")
    port = free_port()
    _, files = BuilderKeys.make(root / "keys")
    for name, content in files.items():
        (root / name).write_bytes(content)
    hosts = root / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {DOOR_HOST}\n")
    access = DoorAccess(f"{DOOR_HOST}:{port}", *(str(root / name) for name in (AUTHORITY, CERTIFICATE, KEY)))
    # On the host the cgroups are those of the host.
    toml = "\n".join(line for line in buildkitd_toml(BuildkitSettings(access, 2)).splitlines() if "Cgroup" not in line)
    # In a mount namespace of its own: the name of the door.
    inside = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    folder = root / "contexts"
    folder.mkdir()
    with native_buildkitd(root, config=f"{toml}\n{config}", inside=inside) as socket:
        place = NativePlace(str(socket), port, str(root / "keys"))
        daemon = Daemon(root / "vchd", on_host=True)
        daemon.module = "tests.live.builds.native_vchd"
        daemon.environment = {VARIABLE: msgspec.json.encode(place).decode()}
        daemon.root.mkdir()
        try:
            daemon.start("--vm-pool", "0", "--vm-template", "off", *flags)
            daemon.load_busybox()
            yield BuildDaemon(daemon, folder, root / "buildkitd.log")
        finally:
            daemon.close()
