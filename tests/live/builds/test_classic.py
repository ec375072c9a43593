"""The classic path, `POST /build` version 1, against a vchd whose buildkitd runs natively: the stock CLI, and docker-py."""

import functools
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from tests.live.builds.conftest import in_lane, on_host
from tests.live.builds.dockerfiles import CASES, Case
from tests.live.builds.native import PATIENCE, BuildDaemon
from tests.live.images import busybox_layer
from tests.live.registry import Pusher, image_manifest, real_registry
from tests.live.waiting import until

_PASSWORDS = "user:$2b$05$lNxCjHKq7i/qO44tGCsfvOItkcw3LHPkesHRu5OIPIe6Jio/PVy8m\n"


def _build(builds: BuildDaemon, *arguments: str, code: int = 0, stdin: bytes | None = None, buildkit: str = "0") -> str:
    """What `docker build` prints with the classic builder, or with the BuildKit client of an old CLI; it has to end with this code."""
    program = _old_cli() if buildkit == "1" else "docker"
    env = os.environ | {"DOCKER_BUILDKIT": buildkit, "DOCKER_HOST": builds.daemon.host}
    done = subprocess.run(
        [program, "build", *arguments], env=env, input=stdin, capture_output=True, timeout=PATIENCE, check=False
    )
    out = (done.stdout + done.stderr).decode()
    assert done.returncode == code, (arguments, out, builds.daemon.log.read_text()[-3000:])
    return out


@functools.cache
def _old_cli() -> str:
    """Debian's docker CLI, which has BuildKit's client inside as those of 18.09 to 22 do."""
    program = "/usr/bin/docker"
    found = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    if not found.startswith("Docker version 20."):
        pytest.skip("docker.io of Debian 12 is not installed")
    return program


def _inspect(builds: BuildDaemon, image: str) -> dict[str, Any]:
    [found] = json.loads(builds.daemon.must("image", "inspect", image))
    return dict(found)


# -- in the gate ------------------------------------------------------------------------------------------------------


def test_the_text_of_a_build_and_of_one_from_the_cache(builds: BuildDaemon) -> None:
    dockerfile = "FROM busybox\nENV A=b\nRUN echo made $A > /made; cat /made\nCOPY . /all\nLABEL c=d\n"
    context = builds.context(dockerfile, {"f": "x", ".dockerignore": "Dockerfile\n.dockerignore\n"})
    out = _build(builds, "-t", "classic:1", "-t", "r.example/classic", str(context))
    image = _inspect(builds, "classic:1")
    lines = [
        line
        for line in out.splitlines()
        if not line.startswith(("Sending", "DEPRECATED", "  ", "Install", "Starting")) and line
    ]
    short = image["Id"].removeprefix("sha256:")[:12]
    assert lines == [
        "Step 1/5 : FROM busybox",
        "Step 2/5 : ENV A=b",
        "Step 3/5 : RUN echo made $A > /made; cat /made",
        "made b",
        "Step 4/5 : COPY . /all",
        "Step 5/5 : LABEL c=d",
        f"Successfully built {short}",
        "Successfully tagged classic:1",
        "Successfully tagged r.example/classic:latest",
    ]
    assert image["Config"]["Labels"] == {"c": "d"}
    again = _build(builds, "-q", "-t", "classic:1", str(context))
    assert image["Id"] in again.splitlines()
    # The Dockerfile and the file of patterns are not in the context if these ignore them.
    check = builds.context('FROM classic:1\nRUN test "$(ls -A /all)" = f && echo only f\n')
    assert "only f" in _build(builds, str(check))


def test_docker_py_reads_the_image_and_the_failure(builds: BuildDaemon) -> None:
    client = docker.DockerClient(base_url=builds.daemon.host, timeout=PATIENCE)
    try:
        image, logs = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo from-py\n"), tag="py:1", rm=True)
        assert image.tags == ["py:1"]
        assert "from-py" in str(list(logs))
        with pytest.raises(docker.errors.BuildError) as failed:
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo before; exit 42\n"))
        assert failed.value.msg == "The command '/bin/sh -c echo before; exit 42' returned a non-zero code: 42"
        last: Any = list(failed.value.build_log)[-1]
        assert last["errorDetail"]["code"] == 42
        with pytest.raises(docker.errors.APIError, match="unknown instruction: NONSENSE") as refused:
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nNONSENSE x\n"))
        assert refused.value.status_code == 400
        pruned: Any = client.api.prune_builds()
        assert pruned["SpaceReclaimed"] >= 0
    finally:
        client.close()


def test_an_image_without_layers(builds: BuildDaemon) -> None:
    _build(builds, "-t", "empty:1", "--label", "a=b", str(builds.context("FROM scratch\nUSER u\n")))
    image = _inspect(builds, "empty:1")
    assert image["RootFS"].get("Layers") in (None, [])
    assert (image["Config"]["User"], image["Config"]["Labels"]) == ("u", {"a": "b"})


# -- outside of the gate: make test-build -------------------------------------------------------------------------------


@in_lane
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_dockerfile(builds: BuildDaemon, case: Case) -> None:
    context = builds.context(case.dockerfile, case.files)
    if case.error:
        out = _build(builds, *case.arguments, str(context), code=42 if case.error == "exit 42" else 1)
        assert case.error.replace("exit 42", "non-zero code: 42") in out
        return
    out = _build(builds, *case.arguments, "--no-cache", "-t", "case:1", str(context))
    position = 0
    for text in case.output:
        position = out.index(text, position)
    config = _inspect(builds, "case:1")["Config"]
    assert {key: config.get(key) for key in case.config} == case.config


@in_lane
def test_triggers_of_a_base_are_shown_below_its_step(builds: BuildDaemon) -> None:
    dockerfile = "FROM busybox\nONBUILD RUN echo triggered > /t\nONBUILD COPY f /f\n"
    _build(builds, "-t", "triggers:1", str(builds.context(dockerfile)))
    context = builds.context("FROM triggers:1\nRUN cat /t /f\n", {"f": "copied\n"})
    out = _build(builds, "--no-cache", "-t", "triggered:1", str(context))
    assert "Step 1/2 : FROM triggers:1\n" in out
    assert out.index("triggered\n", out.index("Step 2/2 : RUN cat /t /f\n")) < out.index("copied\n")
    assert not _inspect(builds, "triggered:1")["Config"].get("OnBuild")


@in_lane
@on_host
def test_ctrl_c_ends_the_run(builds: BuildDaemon) -> None:
    marker = f"{time.time_ns() % 10**9 + 10**9}"
    context = str(builds.context(f"FROM busybox\nRUN sleep {marker}\n"))
    env = os.environ | {"DOCKER_BUILDKIT": "0", "DOCKER_HOST": builds.daemon.host}

    def runs() -> bool:
        return subprocess.run(["pgrep", "-f", f"^sleep {marker}"], capture_output=True, check=False).returncode == 0

    for end in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen(["docker", "build", "-t", "never:1", context], env=env, stdout=subprocess.PIPE) as client:
            until(runs, PATIENCE)
            client.send_signal(end)
            client.wait(PATIENCE)
        until(lambda: not runs(), PATIENCE)
    assert builds.daemon.docker("image", "inspect", "never:1").returncode


@in_lane
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_dockerfile_by_the_buildkit_inside_of_an_old_cli(builds: BuildDaemon, case: Case) -> None:
    """`docker build` of 18.09 to 22 with DOCKER_BUILDKIT=1: version 2, with the context in the client's session."""
    context = str(builds.context(case.dockerfile, case.files))
    given = ("--progress", "plain", "-t", "old:1", *case.arguments, context)
    code = 42 if case.error == "exit 42" else 1
    out = _build(builds, *given, code=code if case.error else 0, buildkit="1")
    assert case.error.replace("exit 42", "exit code: 42") in out
    if not case.error:
        config = _inspect(builds, "old:1")["Config"]
        assert {key: config.get(key) for key in case.config} == case.config


@in_lane
def test_secrets_and_results_of_an_old_cli(builds: BuildDaemon, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    context = builds.context(
        "FROM busybox AS b\nRUN --mount=type=secret,id=s cat /run/secrets/s > /made\nFROM scratch\nCOPY --from=b /made /\n"
    )
    secret = ("--secret", f"id=s,src={tmp_path}/secret")
    _build(builds, *secret, "-o", str(tmp_path / "out"), str(context), buildkit="1")
    assert (tmp_path / "out/made").read_text() == "hush"


@in_lane
def test_a_dockerfile_from_standard_input_uses_the_cache(builds: BuildDaemon) -> None:
    context = builds.context("FROM scratch\n", {"f": "x"})
    dockerfile = b"FROM busybox\nCOPY . /all\nRUN ls -A /all && test ! -e /all/.dockerignore\n"
    _build(builds, "-f", "-", str(context), stdin=dockerfile)
    # The CLI gives the Dockerfile another name each time.
    assert _build(builds, "-f", "-", str(context), stdin=dockerfile).count("Using cache") == 2


@in_lane
def test_a_context_from_standard_input(builds: BuildDaemon) -> None:
    assert "Successfully built" in _build(builds, "-", stdin=b"FROM busybox\nRUN true\n")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in (("d/Dockerfile", b"FROM busybox\nCOPY f /f\n"), ("f", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert "Successfully built" in _build(builds, "-f", "d/Dockerfile", "-", stdin=archive.getvalue())


@in_lane
def test_options_of_runs(builds: BuildDaemon) -> None:
    context = builds.context("FROM busybox\nRUN cat /etc/hosts; ulimit -n; df -k /dev/shm\n")
    options = ("--add-host", "here:1.2.3.4", "--ulimit", "nofile=100:200", "--shm-size", "8m", "--no-cache")
    out = _build(builds, *options, str(context))
    assert re.search(r"1\.2\.3\.4\s+here\n", out)
    assert re.search(r"^100$", out, re.MULTILINE)
    assert " 8192 " in out


@in_lane
def test_refusals(builds: BuildDaemon) -> None:
    context = str(builds.context("FROM busybox\n"))
    for options, text in (
        (("--squash",), "squash is not supported"),
        (("--network", "container:x"), 'network mode "container:x" not supported by buildkit'),
        (("--memory", "900g"), "more than the builder has"),
        (("--platform", "foobar"), 'invalid platform: "foobar"'),
        (("-f", "nowhere"), "nowhere"),
    ):
        assert text in _build(builds, *options, context, code=1)


@in_lane
@on_host
def test_credentials_of_a_private_base(builds: BuildDaemon, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with real_registry(tmp_path / "registry", htpasswd=_PASSWORDS) as registry:
        layer = busybox_layer()
        root = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
        config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]}, "rootfs": root}
        pusher = Pusher(registry, "private", "user:secret")
        pusher.manifest("latest", image_manifest(json.dumps(config).encode(), [layer], pusher.blob))
        dockerfile = f"FROM {registry}/private\nRUN echo private base\n"
        out = _build(builds, str(builds.context(dockerfile)), code=1)
        assert f"Step 1/2 : FROM {registry}/private" in out
        client = docker.DockerClient(base_url=builds.daemon.host, timeout=PATIENCE)
        try:
            client.login("user", "secret", registry=registry)
            _, logs = client.images.build(fileobj=io.BytesIO(dockerfile.encode()))
            assert "private base" in str(list(logs))
        finally:
            client.close()


@in_lane
def test_messages_of_version_2(builds: BuildDaemon, tmp_path: Path) -> None:
    context = builds.context("FROM busybox\nRUN echo two\n")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(context / "Dockerfile", "Dockerfile")
    socket = builds.daemon.host.removeprefix("unix://")
    (tmp_path / "context.tar").write_bytes(archive.getvalue())
    done = subprocess.run(
        [
            "curl",
            "-s",
            "--unix-socket",
            socket,
            "-T",
            str(tmp_path / "context.tar"),
            "-X",
            "POST",
            "http://x/build?version=2&t=two:1",
        ],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "error" not in lines[-1], lines[-1]
    assert {line["id"] for line in lines} == {"moby.buildkit.trace", "moby.image.id"}
    assert lines[-1]["aux"]["ID"] == _inspect(builds, "two:1")["Id"]
