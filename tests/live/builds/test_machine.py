"""Builds in the builder machine of vchd."""

import json
from pathlib import Path

from appliance.buildkit.config import PORT
from tests.live.builds.machine import address_of, machine_daemon

# The cgroup of all RUNs.
_RUNS = "/sys/fs/cgroup/run"


def test_a_build_its_cache_after_a_restart_of_vchd_and_the_end_of_an_idle_builder(tmp_path: Path) -> None:
    with machine_daemon(tmp_path) as builds:
        context = builds.context("FROM busybox\nRUN echo made > /made\n")
        # What lists of builders ask needs no machine.
        assert "running" in builds.buildx("ls")[0]
        assert builds.daemon.must("ps", "-aq", "--filter", "label=vch.role=builder") == ""
        builds.buildx("build", "-t", "first", str(context))
        assert builds.daemon.must("ps", "-aq") == ""
        builder = builds.daemon.must("ps", "-aq", "--filter", "label=vch.role=builder")
        # A RUN meets limits before buildkitd does.
        limits = builds.daemon.must(
            "exec", "vch-builder", "cat", *(f"{_RUNS}/{name}.max" for name in ("memory", "pids"))
        )
        memory, pids = limits.split()
        assert (int(memory) > 1 << 30, pids) == (True, "4096")
        # vchd talks with buildkitd by the builder's network, on which a client without a certificate gets no answer.
        if builds.daemon.namespace:
            address = address_of(builds)
            assert builds.daemon.run_inside("ss", "-Htn", "state", "established", "dst", f"{address}:{PORT}")
            refused = ("curl", "-sk", "-m", "10", "-w", "%{errormsg}", f"https://{address}:{PORT}/")
            assert "certificate required" in builds.daemon.run_inside(*refused, check=False)
        assert builds.daemon.must("volume", "ls", "-q") == ""
        assert builds.daemon.must("volume", "ls", "-q", "--filter", "label=vch.role=builder") == "vch-builder\n"
        assert " Builder: running\n" in builds.daemon.must("info")
        builds.daemon.kill()
        builds.daemon.start("--builder-idle", "1s")
        _, err = builds.buildx("build", "-t", "second", str(context))
        assert " CACHED\n" in err
        assert builds.daemon.must("ps", "-aq", "--filter", "label=vch.role=builder") == builder != ""
        first, second = json.loads(builds.daemon.must("image", "inspect", "first", "second"))
        assert first["Id"] == second["Id"]
        # It ends by itself; what it had is known without it.
        builds.daemon.must("wait", "vch-builder")
        assert " Builder: stopped\n" in builds.daemon.must("info")
        usage = json.loads(builds.daemon.must("system", "df", "-v", "--format", "{{json .BuildCache}}"))
        assert {record["CacheType"] for record in usage} >= {"regular", "source.local"}
