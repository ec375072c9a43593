"""The builder machine, or vchd, ends in the middle of a build."""

import subprocess
from pathlib import Path

from tests.live.builds.conftest import in_lane
from tests.live.builds.machine import machine_daemon
from tests.live.daemon import on_qemu


@on_qemu
@in_lane
def test_builds_whose_machine_or_vchd_ends_fail_and_the_next_build_works(tmp_path: Path) -> None:
    with machine_daemon(tmp_path) as builds:
        context = builds.context("FROM busybox\nRUN echo running && sleep 1000\n")
        quick = str(builds.context("FROM busybox\nRUN echo made > /made\n"))

        def begun() -> "subprocess.Popen[str]":
            process = builds.start_buildx("build", "-t", "never", str(context))
            assert process.stderr is not None
            assert any("running\n" in line for line in process.stderr)
            return process

        # The machine ends.
        process = begun()
        builds.daemon.must("kill", "vch-builder")
        _, err = process.communicate(timeout=60)
        assert process.returncode
        assert "ERROR" in err
        builds.buildx("build", "-t", "first", quick)
        # vchd ends: its clients see the end of their connections, and buildkitd ends what they had begun.
        process = begun()
        builds.daemon.kill()
        process.communicate(timeout=60)
        assert process.returncode
        builds.daemon.start()
        _, err = builds.buildx("build", "-t", "second", quick)
        assert " CACHED\n" in err
        assert builds.daemon.docker("image", "inspect", "never").returncode
        out, _ = builds.buildx("history", "ls", "--format", "{{.Status}}")
        assert "Running" not in out
