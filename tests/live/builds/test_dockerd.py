"""How images differ from those of dockerd 20.10's own builder: as appliance/engine/builds/README.md lists, and in nothing else."""

import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.builds.conftest import in_lane
from tests.live.builds.dockerfiles import CASES, Case
from tests.live.builds.native import BuildDaemon
from tests.live.images import busybox_archive
from tests.live.oracle import dockerd

pytestmark = in_lane

# dockerd's classic builder has no --chmod, --link, --mount and heredocs.
_REFUSED = {"modes and owners", "heredocs and links", "mounts"}
# dockerd's config keeps what its last intermediate container was made with.
_OF_A_CONTAINER = (
    *("AttachStderr", "AttachStdin", "AttachStdout", "Domainname", "Hostname", "Image", "OpenStdin", "StdinOnce"),
    *("Tty", "ArgsEscaped"),
)
# Mount points that runc makes in a root file system without them; a RUN that changes nothing has a layer with these.
_MOUNT_POINTS = {"dev", "proc", "sys"}


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    """The host of a dockerd 20.10 with busybox."""
    with tempfile.TemporaryDirectory(prefix="vch-") as folder, dockerd(Path(folder)) as socket:
        if socket is None:
            pytest.skip("no dockerd can run here")
        _docker(f"unix://{socket}", "load", stdin=busybox_archive())
        yield f"unix://{socket}"


def _docker(host: str, *arguments: str, stdin: bytes | None = None) -> bytes:
    env = os.environ | {"DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", "-H", host, *arguments], input=stdin, capture_output=True, env=env, check=False)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def _image(host: str) -> tuple[dict[str, Any], list[set[tuple[object, ...]]]]:
    """The config of the image x:1, and what is in each of its layers."""

    def read(archive: tarfile.TarFile, name: str) -> bytes:
        member = archive.extractfile(name)
        assert member is not None
        return member.read()

    with tarfile.open(fileobj=io.BytesIO(_docker(host, "save", "x:1"))) as archive:
        (listed,) = json.loads(read(archive, "manifest.json"))
        layers = []
        for name in listed["Layers"]:
            # docker save of 20.10 names a layer that it has written already by a link.
            with tarfile.open(fileobj=io.BytesIO(read(archive, name))) as layer:
                layers.append({_described(member) for member in layer.getmembers()})
        return json.loads(read(archive, listed["Config"])), layers


def _described(member: tarfile.TarInfo) -> tuple[object, ...]:
    # dockerd 20.10 writes the type of a file into its mode, too.
    mode = member.mode & 0o7777
    return (member.name.rstrip("/"), member.type, mode, member.uid, member.gid, member.size, member.linkname)


def _steps(config: dict[str, Any]) -> list[str]:
    """The instruction of each step of the history, without what the two builders write around it."""
    texts = [str(step.get("created_by")) for step in config["history"]]
    return [re.sub(r"^(/bin/sh -e?c #\(nop\) +|RUN )|( # buildkit| )$", "", text) for text in texts]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of containers, without what is empty, and what only one builder sets."""
    kept = {key: value for key, value in config["config"].items() if key not in _OF_A_CONTAINER and value}
    if kept.get("WorkingDir") == "/":
        # BuildKit sets it for an image without a base.
        del kept["WorkingDir"]
    return kept


def _verb(step: str) -> str:
    """A step as far as both write the same: dockerd names what it copies by a digest, and an ARG by its default."""
    word = step.split()[0]
    return word if word in ("ADD", "ARG", "COPY", "EXPOSE", "HEALTHCHECK") else step


def _with_changes(layers: list[set[tuple[object, ...]]]) -> list[set[tuple[object, ...]]]:
    changed = [{entry for entry in layer if entry[0] not in _MOUNT_POINTS} for layer in layers]
    return [layer for layer in changed if layer]


@pytest.mark.parametrize("case", [case for case in CASES if not case.error and case.name not in _REFUSED], ids=str)
def test_an_image_differs_from_dockerds_only_as_listed(builds: BuildDaemon, other: str, case: Case) -> None:
    context = builds.context(case.dockerfile, case.files)
    builds.buildx("build", *case.arguments, "-t", "x:1", str(context))
    _docker(other, "build", "--network", "none", *case.arguments, "-t", "x:1", str(context))
    (config, layers), (their_config, their_layers) = _image(builds.daemon.host), _image(other)
    assert _settings(config) == _settings(their_config)
    theirs = [_verb(step) for step in _steps(their_config)]
    # The label of an option, and a trigger, are steps of dockerd alone.
    known = [step for step in theirs if step != "LABEL given=yes" and not step.startswith("ONBUILD ")]
    assert [_verb(step) for step in _steps(config)] == known
    assert _with_changes(layers) == _with_changes(their_layers)
