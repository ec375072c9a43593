"""Networks of RUNs in the builder machine: each RUN has its own, behind the builder's NAT."""

import subprocess
import sys
from pathlib import Path

from tests.live.builds.conftest import in_lane
from tests.live.builds.machine import machine_daemon


@in_lane
def test_runs_at_the_same_time_use_the_same_port_and_reach_hosts(tmp_path: Path) -> None:
    with machine_daemon(tmp_path) as builds:
        listen = "httpd -p 80 -h / && wget -qO- 127.0.0.1/name && ifconfig eth0 && sleep 3"
        context = builds.context(
            f"FROM busybox AS one\nRUN echo first > /name && {listen}\n"
            f"FROM busybox AS two\nRUN echo second > /name && {listen}\n"
            "FROM busybox\nCOPY --from=one /name /1\nCOPY --from=two /name /2\n"
        )
        _, err = builds.buildx("build", str(context))
        assert "first\n" in err
        assert "second\n" in err
        # The NAT leads to the gateway, with its DNS server and what else the host serves there.
        served = [
            *builds.daemon.inside(),
            sys.executable,
            "-m",
            "http.server",
            "-d",
            str(tmp_path / "contexts"),
            "8099",
        ]
        with subprocess.Popen(served, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                ask = "nslookup nowhere.example 2>&1 || cat /etc/resolv.conf"
                reached = builds.context(f"FROM busybox\nRUN {ask}\nRUN wget -qO- http://here:8099/\n")
                _, err = builds.buildx("build", "--add-host", "here:host-gateway", str(reached))
            finally:
                server.kill()
        assert "Directory listing" in err
        assert "8.8.8.8" not in err
        assert "timed out" not in err
        # A network of its own costs a RUN nothing: BuildKit uses the namespaces of earlier RUNs again.
        runs = builds.context("FROM busybox\n" + "".join(f"RUN echo {n} > /n\n" for n in range(4)))
        builds.buildx("build", "--no-cache", str(runs))
        namespaces = builds.daemon.must("exec", "vch-builder", "ls", "/var/lib/buildkit/net/cni").split()
        assert len(namespaces) <= 2, namespaces
