"""Programs that build images on a person's behalf. BuildKit runs natively; the containers of the images run in VMs."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.cache import prepared
from tests.clients.test_libraries import CONSOLE, GO, MAVEN, NPM
from tests.live.builds.native import BuildDaemon, build_daemon

# Each container boots a VM.
_SECONDS = 500


@pytest.fixture(scope="module")
def builds() -> Iterator[BuildDaemon]:
    """A vchd whose builds run in a native buildkitd."""
    with tempfile.TemporaryDirectory(prefix="vch-") as folder, build_daemon(Path(folder)) as daemon:
        yield daemon


def test_devcontainers_with_a_dockerfile(builds: BuildDaemon) -> None:
    tool = str(prepared("node", NPM) / "node_modules/.bin/devcontainer")
    dockerfile = "FROM busybox AS wanted\nARG WORD\nRUN echo $WORD > /word\nFROM wanted\nRUN exit 1\n"
    config = {
        "build": {"dockerfile": "Dockerfile", "context": "..", "args": {"WORD": "given"}, "target": "wanted"},
        "updateRemoteUserUID": False,
    }
    workspace = builds.context(
        "", {".devcontainer/Dockerfile": dockerfile, ".devcontainer/devcontainer.json": json.dumps(config)}
    )
    out, _ = builds.run(tool, "build", "--workspace-folder", str(workspace), "--image-name", "devcontainer:1")
    assert json.loads(out.strip().splitlines()[-1])["outcome"] == "success"
    [image] = json.loads(builds.daemon.must("image", "inspect", "devcontainer:1"))
    assert "devcontainer.metadata" in image["Config"]["Labels"]
    # `up` makes the container of it, with the workspace of the host.
    out, _ = builds.run(tool, "up", "--workspace-folder", str(workspace), seconds=_SECONDS)
    made = json.loads(out.strip().splitlines()[-1])
    assert made["outcome"] == "success"
    command = ("cat", "/word", ".devcontainer/Dockerfile")
    out, _ = builds.run(tool, "exec", "--workspace-folder", str(workspace), *command, seconds=_SECONDS)
    assert out == f"given\n{dockerfile}"
    builds.daemon.must("rm", "-f", made["containerId"])


_DOCKERFILE = "FROM busybox\nARG WORD=none\nCOPY file /file\nRUN echo word $WORD\n"


def test_dockerode(builds: BuildDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_CONTEXT", str(builds.context(_DOCKERFILE, {"file": "x"})))
    builds.run("node", "--test", "build.test.mjs", folder=prepared("node", NPM))


def test_testcontainers_for_python(builds: BuildDaemon) -> None:
    program = (
        "import sys\n"
        "from testcontainers.core.image import DockerImage\n"
        "with DockerImage(path=sys.argv[1], tag='testcontainers:1', buildargs={'WORD': 'python'}) as image:\n"
        "    logs = ''.join(line.get('stream', '') for line in image.get_logs())\n"
        "    print(image.short_id, 'word python' in logs)\n"
    )
    context = builds.context(_DOCKERFILE, {"file": "x"})
    out, _ = builds.run(sys.executable, "-c", program, str(context))
    assert out.strip().endswith(" True"), out
    # It removes its image.
    assert builds.daemon.docker("image", "inspect", "testcontainers:1").returncode


def _testcontainers(builds: BuildDaemon, language: str, folder: Path, *command: str) -> None:
    """Run a program that builds the image `testcontainers-LANGUAGE:1` of this context, and reads /word in a container of it."""
    context = builds.context(
        "FROM busybox\nARG WORD=none\nCOPY file /file\nRUN echo word $WORD > /word\n", {"file": "x"}
    )
    settings = ["TESTCONTAINERS_RYUK_DISABLED=true", f"BUILD_CONTEXT={context}"]
    builds.run("env", *settings, *command, folder=folder, seconds=_SECONDS)
    assert f"testcontainers-{language}" in builds.daemon.must("image", "ls", "--format", "{{.Repository}}")


def test_testcontainers_for_node(builds: BuildDaemon) -> None:
    _testcontainers(builds, "node", prepared("node", NPM), "node", "--test", "testcontainers-build.test.mjs")


def test_testcontainers_for_go(builds: BuildDaemon) -> None:
    program = ("./clients.test", "-test.v", "-test.run", "TestAnImageOfADockerfile")
    _testcontainers(builds, "go", prepared("go", GO), *program)


def test_testcontainers_for_java(builds: BuildDaemon) -> None:
    _testcontainers(builds, "java", prepared("java", MAVEN), *CONSOLE, "TestcontainersBuildTest")
