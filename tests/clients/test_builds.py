"""Programs that build images on a person's behalf. BuildKit runs natively, so no VM is needed."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.cache import prepared
from tests.clients.test_libraries import NPM
from tests.live.builds.native import BuildDaemon, build_daemon


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
