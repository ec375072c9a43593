"""The image that a build makes is the one that buildkitd makes by itself: the same ID, so the same config, history and layers."""

import contextlib
import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import gotools
from tests.live.buildkit_native import insecure, native_buildkitd
from tests.live.builds.conftest import in_lane
from tests.live.builds.dockerfiles import CASES, Case
from tests.live.builds.native import BuildDaemon
from tests.live.registry import real_registry

pytestmark = in_lane

_EPOCH = "1700000000"
# Files get the time of the epoch, too: two builds of a RUN make them at different times.
_OUTPUT = "type=docker,rewrite-timestamp=true"


@dataclass(frozen=True)
class Oracle:
    """A buildkitd that has nothing to do with vchd. `base` is the busybox of vchd, in a registry."""

    socket: Path
    base: str

    def build(self, context: Path, arguments: Sequence[str], out: Path) -> tuple[str, dict[str, object]]:
        """Image ID and config of a build. `arguments` are those of `docker build`."""
        options = [f"build-arg:SOURCE_DATE_EPOCH={_EPOCH}", f"context:busybox=docker-image://{self.base}"]
        for name, value in zip(arguments[::2], arguments[1::2], strict=True):
            options.append(f"target={value}" if name == "--target" else f"{name.removeprefix('--')}:{value}")
        subprocess.run(
            [
                str(gotools.buildctl()),
                *("--addr", f"unix://{self.socket}", "build", "--frontend", "dockerfile.v0"),
                *("--local", f"context={context}", "--local", f"dockerfile={context}"),
                *(word for option in options for word in ("--opt", option)),
                *("--output", f"{_OUTPUT},dest={out}"),
            ],
            check=True,
            capture_output=True,
        )
        with tarfile.open(out) as archive:
            config = _member(archive, json.loads(_member(archive, "manifest.json"))[0]["Config"])
        return f"sha256:{hashlib.sha256(config).hexdigest()}", json.loads(config)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


@pytest.fixture(scope="module")
def oracle(builds: BuildDaemon) -> Iterator[Oracle]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vch-")))
        (folder / "registry").mkdir()
        host = stack.enter_context(real_registry(folder / "registry"))
        base = f"{host}/busybox:latest"
        # BuildKit takes the config as it is: its ID is that of the image in vchd's store.
        copy = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--src-daemon-host",
            builds.daemon.host,
            "--dest-tls-verify=false",
        ]
        subprocess.run([*copy, "docker-daemon:busybox:latest", f"docker://{base}"], check=True, capture_output=True)
        yield Oracle(stack.enter_context(native_buildkitd(folder, config=insecure(host))), base)


@pytest.mark.parametrize("case", [case for case in CASES if not case.error], ids=str)
def test_an_image_equals_that_of_buildkitd_alone(
    builds: BuildDaemon, oracle: Oracle, case: Case, tmp_path: Path
) -> None:
    context = builds.context(case.dockerfile, case.files)
    argument = ("--build-arg", f"SOURCE_DATE_EPOCH={_EPOCH}")
    builds.buildx("build", *argument, *case.arguments, "--output", f"{_OUTPUT},name=equal:1", str(context))
    (found,) = json.loads(builds.daemon.docker("image", "inspect", "equal:1").stdout)
    identity, config = oracle.build(context, case.arguments, tmp_path / "image.tar")
    # First what differs, in words.
    assert found["RootFS"]["Layers"] == config["rootfs"]["diff_ids"]  # type: ignore[index]
    assert found["Id"] == identity
