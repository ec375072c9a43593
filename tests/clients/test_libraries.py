"""The libraries that programs use: each driver makes, watches and removes containers, and fails by itself when something is wrong."""

import os
import subprocess
from pathlib import Path

from tests.clients.cache import prepared
from tests.live.daemon import Daemon
from tests.live.ryuk import load_ryuk

_SECONDS = 500
NPM = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
MAVEN = ["mvn", "-q", "-B", "test-compile", "dependency:copy-dependencies"]
GO = ["go", "test", "-c", "-mod=mod", "-o", "clients.test", "."]
# JUnit's launcher; the name of a class follows.
CONSOLE = (
    *("java", "-cp", "target/test-classes:target/dependency/*", "org.junit.platform.console.ConsoleLauncher"),
    *("execute", "--select-class"),
)


def run(daemon: Daemon, folder: Path, *command: str) -> str:
    """The output of a client's program, which must succeed."""
    env = os.environ | {"DOCKER_HOST": daemon.host}
    done = subprocess.run(
        [*daemon.inside(), *command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-8000:]}{done.stderr[-8000:]}"
    return done.stdout


def _java(daemon: Daemon, test: str) -> None:
    said = run(daemon, prepared("java", MAVEN), *CONSOLE, test)
    assert "1 tests successful" in said


def test_docker_java(daemon: Daemon) -> None:
    _java(daemon, "DockerJavaTest")


def test_testcontainers_for_java(daemon: Daemon) -> None:
    load_ryuk(daemon, "0.12.0")
    _java(daemon, "TestcontainersTest")


def test_dockerode(daemon: Daemon) -> None:
    run(daemon, prepared("node", NPM), "node", "--test", "dockerode.test.mjs")


def test_testcontainers_for_node(daemon: Daemon) -> None:
    load_ryuk(daemon, "0.12.0")
    run(daemon, prepared("node", NPM), "node", "--test", "testcontainers.test.mjs")


def test_testcontainers_for_go(daemon: Daemon) -> None:
    load_ryuk(daemon, "0.13.0")
    run(daemon, prepared("go", GO), "./clients.test", "-test.v", "-test.run", "TestAServerAndItsClient")


def test_answers_fit_the_types_of_docker(daemon: Daemon) -> None:
    run(daemon, prepared("go", GO), "./clients.test", "-test.v", "-test.run", "TestAnswersFitTheTypes")


def test_bollard(daemon: Daemon) -> None:
    folder = prepared("bollard", ["cargo", "build", "--quiet"])
    assert "all answers fit" in run(daemon, folder, "target/debug/vch-bollard")
