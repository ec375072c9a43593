"""Programs that drive Docker on a person's behalf."""

import json
from pathlib import Path

from tests.clients.cache import prepared
from tests.clients.test_libraries import run
from tests.live.daemon import Daemon


def test_devcontainers(daemon: Daemon, tmp_path: Path) -> None:
    """`devcontainer up` and `exec` on a workspace of the host."""
    tool = str(
        prepared("node", ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"])
        / "node_modules/.bin/devcontainer"
    )
    (tmp_path / ".devcontainer").mkdir()
    config = {"image": "busybox", "updateRemoteUserUID": False, "postCreateCommand": "echo made > /tmp/made"}
    (tmp_path / ".devcontainer/devcontainer.json").write_text(json.dumps(config))
    (tmp_path / "file").write_text("of the host\n")
    said = run(daemon, tmp_path, tool, "up", "--workspace-folder", str(tmp_path))
    made = json.loads(said.strip().splitlines()[-1])
    assert made["outcome"] == "success"
    read = run(daemon, tmp_path, tool, "exec", "--workspace-folder", str(tmp_path), "cat", "file", "/tmp/made")
    assert read == "of the host\nmade\n"
    daemon.must("rm", "-f", made["containerId"])
