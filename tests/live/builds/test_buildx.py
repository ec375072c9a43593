"""buildx with its docker driver, as `docker build` runs it, against a vchd whose buildkitd runs natively."""

import json
import os
import signal
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.live import gotools
from tests.live.builds.conftest import in_lane, on_host
from tests.live.builds.dockerfiles import CASES, Case
from tests.live.builds.native import BuildDaemon
from tests.live.registry import real_registry


def inspect(builds: BuildDaemon, image: str) -> dict[str, Any]:
    """The answer of `docker image inspect`."""
    [found] = json.loads(builds.daemon.must("image", "inspect", image))
    return dict(found)


# -- in the gate ------------------------------------------------------------------------------------------------------


def test_an_image_is_built_once_and_comes_from_the_cache_the_second_time(builds: BuildDaemon, tmp_path: Path) -> None:
    context = builds.context(
        "FROM busybox AS base\nRUN echo made > /made\nFROM base AS wanted\nCOPY f /f\nRUN cat /made /f\nFROM base\nRUN exit 1\n",
        {"f": "copied\n"},
    )
    iid = tmp_path / "iid"
    since = str(time.time())
    arguments = (
        "build",
        "-t",
        "built:1",
        "-t",
        "r.example/built",
        "--target",
        "wanted",
        "--iidfile",
        str(iid),
        str(context),
    )
    _, err = builds.buildx(*arguments)
    assert "made\n" in err
    assert "copied\n" in err
    # Users see their own names only.
    assert "FROM docker.io/library/busybox:latest@sha256:" in err
    assert "vch.internal" not in err
    image = inspect(builds, "built:1")
    assert image["Id"] == iid.read_text() == inspect(builds, "r.example/built")["Id"]
    assert len(image["RootFS"]["Layers"]) == 4
    events = builds.daemon.must(
        "events",
        "--since",
        since,
        "--until",
        str(time.time()),
        "--filter",
        "type=image",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    )
    assert events.splitlines() == [f"create {image['Id']}", "tag built:1", "tag r.example/built:latest"]
    _, err = builds.buildx(*arguments)
    assert err.count(" CACHED\n") == 3
    assert inspect(builds, "built:1")["Id"] == image["Id"]


def test_images_that_exist_only_here_are_bases_sources_of_files_and_caches(builds: BuildDaemon) -> None:
    builds.daemon.must("tag", "busybox", "localhost:5000/only-here:3")
    builds.buildx(
        "build", "-t", "first:1", str(builds.context("FROM localhost:5000/only-here:3\nRUN echo 1 > /first\n"))
    )
    context = builds.context(
        "FROM busybox\nCOPY --from=first:1 /first /\nRUN --mount=from=first:1,target=/m cat /m/first && cat /first\n"
        "COPY --from=named /first /named\n"
    )
    _, err = builds.buildx(
        "build",
        "-t",
        "second:1",
        "--build-context",
        "named=docker-image://first:1",
        "--build-arg",
        "BUILDKIT_INLINE_CACHE=1",
        "--cache-from",
        "first:1",
        str(context),
    )
    assert "importing cache manifest from docker.io/library/first:1\n" in err
    # first:1 has no cache in it, and that is all that is wrong with it.
    assert "not found" not in err


def test_secrets_come_by_the_session_and_are_in_no_layer(builds: BuildDaemon, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    context = builds.context(
        "FROM busybox\nRUN --mount=type=secret,id=s test $(cat /run/secrets/s) = hush && echo right\n"
    )
    _, err = builds.buildx("build", "-t", "secretive", "--secret", f"id=s,src={tmp_path}/secret", str(context))
    assert "right\n" in err
    assert len(inspect(builds, "secretive")["RootFS"]["Layers"]) == 2


def test_a_client_without_the_upgrade_reaches_the_same_api(builds: BuildDaemon, tmp_path: Path) -> None:
    buildctl = [str(gotools.buildctl()), "--addr", builds.daemon.host]
    context = builds.context("FROM busybox\nRUN echo by buildctl > /made\nFROM scratch\nCOPY --from=0 /made /\n")
    given = ["--frontend=dockerfile.v0", f"--local=context={context}", f"--local=dockerfile={context}"]
    builds.run(*buildctl, "build", *given, f"--output=type=local,dest={tmp_path / 'out'}")
    assert (tmp_path / "out/made").read_text() == "by buildctl\n"


def test_a_run_that_fails_is_told_with_its_command_and_code_and_leaves_nothing(builds: BuildDaemon) -> None:
    context = builds.context("FROM busybox\nRUN echo before && exit 42\n")
    before = builds.daemon.must("images", "-aq")
    _, err = builds.buildx("build", "-t", "failed", str(context), code=1)
    assert 'process "/bin/sh -c echo before && exit 42" did not complete successfully: exit code: 42' in err
    # The excerpt of the Dockerfile comes in the details of the error.
    assert ">>> RUN echo before && exit 42" in err
    assert builds.daemon.must("images", "-aq") == before
    assert builds.daemon.docker("image", "inspect", "failed").returncode


# -- make test-build --------------------------------------------------------------------------------------------------


@in_lane
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dockerfiles(builds: BuildDaemon, case: Case) -> None:
    arguments = ("build", "-t", "case", *case.arguments, str(builds.context(case.dockerfile, case.files)))
    _, err = builds.buildx(*arguments, code=1 if case.error else 0)
    position = 0
    for text in case.output:
        position = err.index(text, position)
    assert case.error in err
    if not case.error:
        config = inspect(builds, "case")["Config"]
        assert {key: config.get(key) for key in case.config} == case.config


@in_lane
def test_triggers_of_a_base_run_in_the_image_made_from_it(builds: BuildDaemon) -> None:
    base = builds.context("FROM busybox\nONBUILD ARG WORD=none\nONBUILD RUN echo $WORD > /t\nONBUILD COPY f /f\n")
    builds.buildx("build", "-t", "triggers", str(base))
    context = str(builds.context("FROM triggers\nRUN cat /t /f\n", {"f": "copied\n"}))
    _, err = builds.buildx("build", "-t", "triggered", "--build-arg", "WORD=given", context)
    assert err.index("given\n") < err.index("copied\n")
    assert not inspect(builds, "triggered")["Config"].get("OnBuild")


@in_lane
def test_quiet_and_machine_readable_progress(builds: BuildDaemon, tmp_path: Path) -> None:
    context = str(builds.context("FROM busybox\nRUN echo quiet\n"))
    out, err = builds.buildx("build", "-q", "-t", "quiet", context)
    assert (out.strip(), err) == (inspect(builds, "quiet")["Id"], "")
    metadata = tmp_path / "metadata"
    _, err = builds.buildx("build", "--progress", "rawjson", "--metadata-file", str(metadata), "-t", "quiet", context)
    names = {vertex["name"] for line in err.splitlines() for vertex in json.loads(line).get("vertexes", ())}
    assert "[2/2] RUN echo quiet" in names
    assert not any("vch.internal" in name for name in names)
    known = json.loads(metadata.read_text())
    assert known["containerimage.config.digest"] == inspect(builds, "quiet")["Id"]
    assert known["image.name"] == "docker.io/library/quiet:latest"


@in_lane
def test_mounts_of_runs(builds: BuildDaemon, tmp_path: Path) -> None:
    agent = subprocess.run(["ssh-agent", "-a", str(tmp_path / "agent")], capture_output=True, text=True, check=True)
    pid = int(agent.stdout.partition("SSH_AGENT_PID=")[2].partition(";")[0])
    try:
        context = builds.context(
            "FROM busybox\nARG N\n"
            "RUN --mount=type=cache,target=/c echo x >> /c/f && wc -l < /c/f\n"
            "RUN --mount=type=bind,target=/b test -f /b/Dockerfile\n"
            "RUN --mount=type=tmpfs,target=/t mount | grep ' /t '\n"
            "RUN --mount=type=ssh test -S $SSH_AUTH_SOCK\n"
            "RUN <<END\necho here\necho document\nEND\n"
            "COPY <<END /inline\ncontent\nEND\n"
            "COPY --link f /linked\nRUN cat /inline /linked\n",
            {"f": "link\n"},
        )
        for rounds in (1, 2):
            _, err = builds.buildx(
                "build",
                "-t",
                "mounts",
                "--build-arg",
                f"N={rounds}",
                "--ssh",
                f"default={tmp_path}/agent",
                str(context),
            )
            assert f" {rounds}\n" in err
            for text in ("here\n", "document\n", "content\n", "link\n"):
                assert text in err
    finally:
        os.kill(pid, signal.SIGTERM)


@in_lane
def test_results_in_folders_and_archives(builds: BuildDaemon, tmp_path: Path) -> None:
    context = builds.context("FROM busybox AS b\nRUN echo made > /made\nFROM scratch\nCOPY --from=b /made /\n")
    builds.buildx("build", "-o", f"type=local,dest={tmp_path}/out", str(context))
    assert (tmp_path / "out/made").read_text() == "made\n"
    builds.buildx(
        "build",
        "-o",
        f"type=tar,dest={tmp_path}/out.tar",
        "-o",
        f"{tmp_path}/again",
        "-t",
        "beside",
        "--load",
        str(context),
    )
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [name for name in tar.getnames() if name] == ["made"]
    assert (tmp_path / "again/made").read_text() == "made\n"
    inspect(builds, "beside")


@in_lane
def test_no_cache_and_inline_cache(builds: BuildDaemon) -> None:
    context = builds.context("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n")
    arguments = ("build", "-t", "cached:1", "--build-arg", "BUILDKIT_INLINE_CACHE=1", str(context))
    builds.buildx(*arguments)
    first = inspect(builds, "cached:1")["Id"]
    builds.buildx(*arguments, "--no-cache")
    assert inspect(builds, "cached:1")["Id"] != first
    second = inspect(builds, "cached:1")["RootFS"]["Layers"]
    # All that is left of the cache is in the image.
    builds.buildx("prune", "-af")
    _, err = builds.buildx("build", "-t", "cached:2", "--cache-from", "cached:1", str(context))
    assert " CACHED\n" in err
    assert inspect(builds, "cached:2")["RootFS"]["Layers"] == second


@in_lane
@on_host
def test_caches_in_a_registry(builds: BuildDaemon, tmp_path: Path) -> None:
    context = str(builds.context("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n"))
    with real_registry(tmp_path) as registry:
        name = f"{registry}/cache:1"
        builds.buildx("build", "--push", "-t", name, "--cache-to", "type=inline", context)
        layers = inspect(builds, name)["RootFS"]["Layers"]
        # All that is left of the cache is in the registry.
        builds.daemon.must("rmi", name)
        builds.buildx("prune", "-af")
        _, err = builds.buildx("build", "-t", "again", "--cache-from", f"type=registry,ref={name}", context)
        assert f"importing cache manifest from {name}\n" in err
        assert " CACHED\n" in err, err
        assert inspect(builds, "again")["RootFS"]["Layers"] == layers
        # An export by itself needs a store of OCI indexes: buildx refuses it, as with dockerd's older store.
        for cache in (f"type=registry,ref={name}", f"type=local,dest={tmp_path}/cache"):
            _, err = builds.buildx("build", "--cache-to", cache, context, code=1)
            assert "Cache export is not supported for the docker driver" in err


@in_lane
@on_host
def test_a_push_goes_to_a_registry(builds: BuildDaemon, tmp_path: Path) -> None:
    with real_registry(tmp_path) as registry:
        name = f"{registry}/pushed:1"
        builds.buildx("build", "--push", "-t", name, str(builds.context("FROM busybox\nRUN echo pushed > /p\n")))
        image = inspect(builds, name)["Id"]
        builds.daemon.must("rmi", name)
        builds.daemon.must("pull", name)
        assert inspect(builds, name)["Id"] == image


@in_lane
@on_host
def test_ctrl_c_ends_the_run_and_leaves_nothing(builds: BuildDaemon) -> None:
    marker = f"{time.time_ns() % 10**9 + 10**9}"
    process = builds.start_buildx("build", "-t", "never", str(builds.context(f"FROM busybox\nRUN sleep {marker}\n")))

    def runs() -> bool:
        return subprocess.run(["pgrep", "-f", f"^sleep {marker}"], capture_output=True, check=False).returncode == 0

    def wait(condition: bool) -> None:
        deadline = time.monotonic() + 60
        while runs() is not condition:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait(True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode
    wait(False)
    # A client that is killed says nothing.
    process = builds.start_buildx("build", "-t", "never", str(builds.context(f"FROM busybox\nRUN sleep {marker}\n")))
    wait(True)
    process.kill()
    process.communicate(timeout=60)
    wait(False)
    assert builds.daemon.docker("image", "inspect", "never").returncode


@in_lane
def test_bake_builds_targets_beside_each_other_and_from_each_other(builds: BuildDaemon) -> None:
    context = builds.context("FROM busybox AS one\nARG N\nRUN echo $N > /n\n")
    (context / "Dockerfile.two").write_text("FROM one\nRUN cat /n\n")
    targets: dict[str, dict[str, Any]] = {
        "one": {"args": {"N": "one"}},
        "two": {"dockerfile": "Dockerfile.two", "contexts": {"one": "target:one"}, "tags": ["baked:two"]},
        **{f"many{n}": {"args": {"N": str(n)}, "tags": [f"baked:{n}"]} for n in range(8)},
    }
    for target in targets.values():
        target["context"] = str(context)
    bake = {"group": {"default": {"targets": [name for name in targets if name != "one"]}}, "target": targets}
    (context / "bake.json").write_text(json.dumps(bake))
    _, err = builds.buildx("bake", "-f", str(context / "bake.json"), "--allow", f"fs.read={context}")
    assert "one\n" in err
    assert len({inspect(builds, f"baked:{n}")["Id"] for n in ("two", *range(8))}) == 9


@in_lane
def test_commands_about_the_builder(builds: BuildDaemon) -> None:
    builds.buildx("build", "-t", "x", str(builds.context("FROM busybox\nRUN echo history\n")))
    out, _ = builds.buildx("ls")
    assert "running" in out
    out, _ = builds.buildx("inspect")
    assert "linux/amd64" in out
    assert "docker" in out
    out, _ = builds.buildx("history", "ls")
    assert "Completed" in out
    out, _ = builds.buildx("du")
    assert "Total" in out
    out, _ = builds.buildx("prune", "-af")
    assert "Total" in out


@in_lane
def test_the_docker_command_with_its_plugin(builds: BuildDaemon) -> None:
    context = str(builds.context("FROM busybox\nRUN echo by the plug-in\n"))
    _, err = builds.run("docker", "buildx", "build", "-t", "plugin", context)
    assert "by the plug-in\n" in err
    inspect(builds, "plugin")
    assert "Build Cache" in builds.run("docker", "system", "df")[0]
    # By POST /build/prune.
    assert "Total" in builds.run("docker", "builder", "prune", "-af")[0]
    _, err = builds.run("docker", "buildx", "build", "-t", "plugin", context)
    assert "by the plug-in\n" in err


@in_lane
def test_errors_name_images_as_the_user_does(builds: BuildDaemon) -> None:
    _, err = builds.buildx("build", str(builds.context("FROM busybox\nCOPY --from=busybox /no/such /x\n")), code=1)
    assert "no such file" in err
    _, err = builds.buildx("build", "-t", "UPPER", str(builds.context("FROM busybox\n")), code=1)
    assert "invalid" in err
    _, err = builds.buildx("build", "-t", "vch.internal/x", str(builds.context("FROM busybox\n")), code=1)
    assert "reserved for the builder" in err


@in_lane
def test_twenty_builds_at_once(builds: BuildDaemon) -> None:
    contexts = [builds.context(f"FROM busybox\nRUN echo {n} > /n && sleep 0.2\n") for n in range(20)]
    running = [builds.start_buildx("build", "-t", f"many:{n}", str(context)) for n, context in enumerate(contexts)]
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert len({inspect(builds, f"many:{n}")["Id"] for n in range(20)}) == 20


@in_lane
def test_builds_leave_no_descriptors_behind(builds: BuildDaemon, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    good = str(builds.context("FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s\n"))
    bad = str(builds.context("FROM busybox\nRUN exit 1\n"))
    slow = str(builds.context("FROM busybox\nRUN echo begun && sleep 1000\n"))

    def build() -> None:
        builds.buildx("build", "-t", "leak", "--secret", f"id=s,src={tmp_path}/secret", good)
        builds.buildx("build", "-t", "leak", bad, code=1)
        process = builds.start_buildx("build", slow)
        assert process.stderr is not None
        assert any("begun\n" in line for line in process.stderr)
        process.kill()
        process.communicate()

    def descriptors() -> Counter[str]:
        folder = Path(f"/proc/{builds.daemon.pid}/fd")
        targets = (os.readlink(path) for path in folder.iterdir() if path.is_symlink())
        return Counter(target.partition(":")[0] for target in targets if not target.startswith("/"))

    build()
    before = descriptors()
    for _ in range(3):
        build()
    deadline = time.monotonic() + 30
    # The door keeps at most 32 connections of buildkitd that wait for a request.
    while (more := descriptors() - before) and (more.pop("socket", 0) > 32 or more):
        assert time.monotonic() < deadline, (before, descriptors())
        time.sleep(0.2)
    assert list((builds.daemon.root / "data/scratch").iterdir()) == []
