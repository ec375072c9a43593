"""Programs that build images on a person's behalf. BuildKit runs natively, so no VM is needed."""

import json
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
