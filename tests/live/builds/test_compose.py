"""Both versions of compose build images: by buildx, which they find as a plug-in of the docker CLI."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import gotools
from tests.live.builds.conftest import in_lane
from tests.live.builds.native import BuildDaemon

# Each container boots a VM.
_SECONDS = 400

_FILE = """
name: built
services:
  base:
    image: built-base
    build:
      context: {context}
      args: {{WORD: given}}
      labels: {{made.by: compose}}
  app:
    build:
      context: {context}
      dockerfile_inline: |
        FROM base AS wanted
        RUN --mount=type=secret,id=s cat /word /run/secrets/s && test -f /word
        FROM wanted
        RUN exit 1
      target: wanted
      additional_contexts: {{base: "service:base"}}
      secrets: [s]
      tags: [also:1]
secrets:
  s: {{file: {context}/secret}}
"""


@in_lane
@pytest.mark.parametrize("tool", [gotools.compose, gotools.compose_5])
def test_compose_builds_services_from_each_other(builds: BuildDaemon, tool: Callable[[], Path | None]) -> None:
    compose = tool()
    if compose is None:
        pytest.skip("Go is not installed")
    context = builds.context("FROM busybox\nARG WORD\nRUN echo $WORD > /word\n", {"secret": "hush\n"})
    (context / "compose.yaml").write_text(_FILE.format(context=context))
    out, err = builds.run(str(compose), "--progress", "plain", "build", "--no-cache", folder=context)
    assert "given" in out + err
    assert "hush" in out + err
    [base] = json.loads(builds.daemon.must("image", "inspect", "built-base"))
    assert base["Config"]["Labels"]["made.by"] == "compose"
    [app] = json.loads(builds.daemon.must("image", "inspect", "built-app"))
    [other] = json.loads(builds.daemon.must("image", "inspect", "also:1"))
    assert app["Id"] == other["Id"]
    assert app["RootFS"]["Layers"][: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]
    (context / "Dockerfile").write_text("FROM busybox\nRUN exit 7\n")
    out, err = builds.run(str(compose), "--progress", "plain", "build", "base", folder=context, code=1)
    assert "exit code: 7" in out + err
    builds.daemon.must("rmi", "built-base", "built-app", "also:1")


_UP = """
name: up
services:
  app:
    build: {context: ., args: {WORD: given}}
    # Without a network of the project, which user-mode networking cannot make.
    network_mode: none
    command: cat /word
"""


@in_lane
@pytest.mark.parametrize("tool", [gotools.compose, gotools.compose_5])
def test_compose_up_builds_and_builds_again(builds: BuildDaemon, tool: Callable[[], Path | None]) -> None:
    """Its containers run in VMs."""
    compose = tool()
    if compose is None:
        pytest.skip("Go is not installed")
    context = builds.context("FROM busybox\nARG WORD\nCOPY f /f\nRUN echo $WORD $(cat /f) > /word\n", {"f": "first"})
    (context / "compose.yaml").write_text(_UP)
    up = (str(compose), "--progress", "plain", "up", "--build", "--exit-code-from", "app")
    try:
        out, _ = builds.run(*up, folder=context, seconds=_SECONDS)
        assert "given first" in out
        first = builds.daemon.must("inspect", "-f", "{{.Id}} {{.Image}}", "up-app-1").split()
        # Another image: the container is made anew.
        (context / "f").write_text("second")
        out, _ = builds.run(*up, folder=context, seconds=_SECONDS)
        assert "given second" in out
        second = builds.daemon.must("inspect", "-f", "{{.Id}} {{.Image}}", "up-app-1").split()
        assert not set(first) & set(second)
        assert second[1] == json.loads(builds.daemon.must("image", "inspect", "up-app"))[0]["Id"]
    finally:
        builds.run(str(compose), "down", "--rmi", "local", "-t", "1", folder=context, seconds=_SECONDS)
    assert builds.daemon.must("images", "-q", "up-app") == ""
