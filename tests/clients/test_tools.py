"""Programs that drive Docker on a person's behalf."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.cache import prepared
from tests.clients.test_libraries import NPM, run
from tests.live import gotools
from tests.live.daemon import Daemon
from tests.live.waiting import until

_HERE = Path(__file__).parent


def test_devcontainers(daemon: Daemon, tmp_path: Path) -> None:
    """`devcontainer up` and `exec` on a workspace of the host."""
    tool = str(prepared("node", NPM) / "node_modules/.bin/devcontainer")
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


def test_act(daemon: Daemon, tmp_path: Path) -> None:
    """A workflow with a checkout, environment variables that steps hand on, and a step that may fail."""
    tool = gotools.act()
    if tool is None:
        pytest.skip("Go is not installed")
    project = tmp_path / "project"
    shutil.copytree(_HERE / "act", project)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    options = ["-P", "ubuntu-latest=busybox", "--pull=false", "--rm"]
    # The network namespace has only its loopback and the bridges of vchd.
    options += ["--cache-server-addr", "127.0.0.1", "--artifact-server-addr", "127.0.0.1"]
    said = run(daemon, project, str(tool), "push", *options)
    assert "number is 4" in said
    assert "Job succeeded" in said


@pytest.fixture
def compose() -> str:
    tool = gotools.compose_5()
    if tool is None:
        pytest.skip("Go is not installed")
    return str(tool)


def test_compose_with_networks_secrets_and_health(daemon: Daemon, compose: str) -> None:
    folder = _HERE / "compose/shop"
    run(daemon, folder, compose, "up", "-d", "--pull", "never")
    run(daemon, folder, compose, "wait", "client")
    assert run(daemon, folder, compose, "logs", "--no-log-prefix", "client") == "secret\nopen=yes\n"
    # `back` is internal; the shop's front is not reachable from the database.
    shown = json.loads(daemon.must("inspect", "shop-db-1"))[0]
    assert list(shown["NetworkSettings"]["Networks"]) == ["shop_back"]
    run(daemon, folder, compose, "down", "-v", "-t", "1")
    # act keeps a volume of its own.
    assert daemon.must("volume", "ls", "-q", "--filter", "label=com.docker.compose.project=shop") == ""


def test_compose_with_jobs_and_one_off_commands(daemon: Daemon, compose: str) -> None:
    folder = _HERE / "compose/batch"
    run(daemon, folder, compose, "up", "--pull", "never", "--exit-code-from", "work", "prepare", "work")
    said = run(daemon, folder, compose, "--profile", "tools", "run", "--rm", "-T", "report", "/shared/output")
    assert said.strip() == "3"
    run(daemon, folder, compose, "--profile", "tools", "down", "-v", "-t", "1")


def test_compose_with_sidecars(daemon: Daemon, compose: str) -> None:
    folder = _HERE / "compose/sidecars"
    run(daemon, folder, compose, "up", "-d", "--pull", "never")

    def served(port: int) -> bool:
        return daemon.run_inside("curl", "-s", f"127.0.0.1:{port}", check=False) == "page\n"

    until(lambda: served(18088) and served(18089))
    assert "httpd -f -p 80" in run(daemon, folder, compose, "exec", "-T", "watcher", "ps")
    run(daemon, folder, compose, "restart", "-t", "1", "proxy")
    until(lambda: served(18089))
    # The owner stops first: the container that shares its processes ends, too, and the one that shares only its network runs on.
    run(daemon, folder, compose, "stop", "-t", "1", "web")
    left = run(daemon, folder, compose, "ps", "--format", "{{.Service}}").split()
    assert left == ["proxy"]
    run(daemon, folder, compose, "up", "-d", "--force-recreate", "--pull", "never", "-t", "1")
    until(lambda: served(18089))
    run(daemon, folder, compose, "down", "-t", "1")
    assert daemon.must("ps", "-aq", "--filter", "label=com.docker.compose.project=sidecars") == ""


def test_compose_with_replicas(daemon: Daemon, compose: str, tmp_path: Path) -> None:
    folder = _HERE / "compose/scale"
    run(daemon, folder, compose, "up", "-d", "--pull", "never")
    run(daemon, folder, compose, "up", "-d", "--no-recreate", "--scale", "web=3")
    assert len(run(daemon, folder, compose, "ps", "-q", "web").split()) == 3
    found = run(daemon, folder, compose, "exec", "-T", "prober", "nslookup", "-type=a", "web.")
    assert found.count("Address") >= 4
    assert run(daemon, folder, compose, "exec", "-T", "--index", "3", "web", "cat", "/www/index.html").strip()
    run(daemon, folder, compose, "cp", "web:/www/index.html", str(tmp_path / "page"))
    assert (tmp_path / "page").read_text().strip()
    run(daemon, folder, compose, "restart", "-t", "1", "prober")
    run(daemon, folder, compose, "down", "-t", "1")
