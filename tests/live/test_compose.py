"""docker compose v2 and testcontainers, as their users run them."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.live import gotools
from tests.live.daemon import Daemon

_PROJECT = """
name: shop
services:
  db:
    image: busybox
    command: sh -c "sleep 1; mkdir -p /data/www; echo stored > /data/www/index.html; echo db is ready; exec httpd -f -p 80 -h /data/www"
    volumes: [data:/data]
    healthcheck: {test: [CMD, wget, -qO-, "127.0.0.1:80"], interval: 1s, timeout: 5s, retries: 30}
    networks: {back: {aliases: [database]}}
  web:
    image: busybox
    command: sh -c "mkdir /www; wget -qO /www/index.html http://database/ && exec httpd -f -p 80 -h /www"
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80"]
    networks: [front, back]
    environment: {COLOUR: blue}
  worker:
    image: busybox
    command: sh -c "echo working; exec sleep 1000"
    depends_on: [web]
    networks: [back]
networks: {front: {}, back: {internal: true}}
volumes: {data: {}}
"""


@pytest.fixture
def compose(daemon: Daemon, tmp_path: Path) -> Callable[..., str]:
    program = gotools.compose()
    if program is None:
        pytest.skip("there is no Go to build it with")
    (tmp_path / "compose.yaml").write_text(_PROJECT)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(program), *arguments],
            cwd=tmp_path,
            env={**os.environ, "DOCKER_HOST": daemon.host},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\n{daemon.log.read_text()[-3000:]}"
        return done.stdout

    return run


@pytest.mark.skipif(os.geteuid() != 0, reason="networks need the rights of root")
def test_a_project_comes_up_scales_and_goes(daemon: Daemon, compose: Callable[..., str]) -> None:
    compose("up", "-d", "--wait", "--quiet-pull")
    services = {row["Service"]: row for row in map(json.loads, compose("ps", "--format", "json").splitlines())}
    assert {name: row["State"] for name, row in services.items()} == dict.fromkeys(("db", "web", "worker"), "running")
    assert services["db"]["Health"] == "healthy"
    assert services["web"]["Publishers"][0]["PublishedPort"] == 8080
    assert daemon.run_inside("curl", "-s", "127.0.0.1:8080") == "stored\n"
    assert compose("exec", "-T", "worker", "wget", "-qO-", "http://web") == "stored\n"
    assert compose("exec", "-T", "web", "sh", "-c", "echo $COLOUR") == "blue\n"
    assert "db is ready" in compose("logs", "--no-color", "db")
    assert (
        compose("run", "--rm", "--no-deps", "-T", "worker", "sh", "-c", "wget -qO- http://database && echo once")
        == "stored\nonce\n"
    )
    compose("up", "-d", "--scale", "worker=3", "--no-recreate")
    assert len(compose("ps", "-q", "worker").split()) == 3
    assert compose("exec", "-T", "db", "nslookup", "worker").count("Name:\tworker") >= 3
    compose("restart", "-t", "0", "web")
    deadline = time.monotonic() + 60
    while daemon.run_inside("curl", "-s", "127.0.0.1:8080", check=False) != "stored\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    compose("stop", "-t", "0", "worker")
    compose("down", "-t", "0")
    assert daemon.must("volume", "ls", "-q", "--filter", "name=shop").split() == ["shop_data"]
    compose("up", "-d", "db")
    compose("down", "-t", "0", "-v")
    for noun in ("ps -a", "volume ls", "network ls"):
        assert "shop" not in daemon.must(*noun.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="networks need the rights of root")
def test_testcontainers_wait_for_a_service(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", daemon.host)
    monkeypatch.setattr("testcontainers.core.config.testcontainers_config.ryuk_disabled", True)
    serve = "mkdir /www; echo select > /www/index.html; echo database system is ready to accept connections; exec httpd -f -p 5432 -h /www"
    service = DockerContainer("busybox").with_command(["sh", "-c", serve]).with_exposed_ports(5432)
    with service.waiting_for(LogMessageWaitStrategy("ready to accept connections")) as container:
        address = f"{container.get_container_host_ip()}:{container.get_exposed_port(5432)}"
        deadline = time.monotonic() + 60
        while daemon.run_inside("curl", "-s", f"http://{address}/", check=False) != "select\n":
            assert time.monotonic() < deadline, address
            time.sleep(0.1)
        assert container.get_logs()[0].startswith(b"database system is ready")
    assert not daemon.must("ps", "-aq").split()
