"""Builds in the builder machine of vchd."""

import json
from pathlib import Path

from tests.live.builds.machine import machine_daemon
from tests.live.daemon import on_qemu


@on_qemu
def test_a_build_and_its_cache_after_a_restart_of_vchd(tmp_path: Path) -> None:
    with machine_daemon(tmp_path) as builds:
        context = builds.context("FROM busybox\nRUN echo made > /made\n")
        # What lists of builders ask needs no machine.
        assert "running" in builds.buildx("ls")[0]
        assert builds.daemon.must("ps", "-aq", "--filter", "label=vch.role=builder") == ""
        builds.buildx("build", "-t", "first", str(context))
        assert builds.daemon.must("ps", "-aq") == ""
        builder = builds.daemon.must("ps", "-aq", "--filter", "label=vch.role=builder")
        builds.daemon.kill()
        builds.daemon.start()
        _, err = builds.buildx("build", "-t", "second", str(context))
        assert " CACHED\n" in err
        assert builds.daemon.must("ps", "-aq", "--filter", "label=vch.role=builder") == builder != ""
        first, second = json.loads(builds.daemon.must("image", "inspect", "first", "second"))
        assert first["Id"] == second["Id"]
