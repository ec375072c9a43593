"""`compose build` of both versions of compose: by buildx, which they find as a plug-in of the docker CLI."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import gotools
from tests.live.builds.conftest import in_lane
from tests.live.builds.native import BuildDaemon

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
