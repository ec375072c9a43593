"""The shell lines that a page marks as runnable do run, one after the other, as a reader would type them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.live.daemon import PATIENCE, Daemon
from tests.readmes import Block, runnable_blocks


@pytest.mark.parametrize("block", runnable_blocks(), ids=lambda block: block.name)
def test_runnable_lines(block: Block, daemon: Daemon, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block.text],
        env=os.environ | {"DOCKER_HOST": daemon.host},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
