"""`state.db` and the data root of an earlier version, written by it and kept here: this version takes them over.

The host lost power meanwhile, so no VM runs any more. `record.py` makes the fixture.
"""

import copy
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import Daemon, on_qemu
from tests.live.takeover.record import DATA, ROOT, Answers, ask
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    on_qemu,
    pytest.mark.skipif(bool(os.geteuid()), reason="the fixture has networks with bridges, which need root"),
]

# Ran until the host lost power, and stay ended.
_ENDED = {"running", "terminal", "healthy", "published", "addressed", "paused"}
# Ran until the host lost power, and their restart policy starts them again.
_STARTED_AGAIN = {"always", "updated"}


def _unpack(version: str, root: Path) -> Answers:
    packed = subprocess.run(["zstd", "-dc", "--long=27", DATA / f"{version}.tar.zst"], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", root], input=packed.stdout, check=True)
    # The fixture was written at another path, and the mounts of its containers name that.
    state = sqlite3.connect(root / "data/state.db")
    with state:
        changed = "CAST(replace(CAST(value AS TEXT), ?, ?) AS BLOB)"
        state.execute(f"UPDATE record SET value = {changed}", (str(ROOT), str(root)))
    state.close()
    return Answers.read(root / "expected.json", root)


@pytest.fixture(params=["0.1"])
def taken_over(request: pytest.FixtureRequest, short_path: Path) -> Iterator[tuple[Daemon, Answers]]:
    before = _unpack(request.param, short_path)
    daemon = Daemon(short_path)
    try:
        daemon.start()
        yield daemon, before
    finally:
        daemon.close()


# What an endpoint has only while its container runs.
_OF_A_RUN = ("EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "MacAddress", "SandboxID")


def _without_run(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer about a container, without what its run alone decides."""
    kept = copy.deepcopy(answer)
    for key in ("State", "Status", "Ports", "ExecIDs"):
        kept.pop(key, None)
    kept["NetworkSettings"].pop("Ports", None)
    for endpoint in (kept["NetworkSettings"], *kept["NetworkSettings"]["Networks"].values()):
        for key in _OF_A_RUN:
            endpoint.pop(key, None)
    return kept


def _state(daemon: Daemon, name: str, template: str = "{{.State.Status}}") -> str:
    return daemon.must("inspect", name, "--format", template).strip()


def _as_answered_now(answers: Answers) -> None:
    """Change the answers of 0.1 into those that later versions give by intention."""
    for container in answers.containers.values():
        _of_container_now(container)
    for network in answers.networks.values():
        # moby answers with an empty list for networks without subnets.
        network["IPAM"]["Config"] = network["IPAM"]["Config"] or []
    by_id = {image["Id"]: image for image in answers.images.values()}
    for image in answers.images.values():
        image["GraphDriver"]["Data"] = {}
        if image["Parent"]:
            # A history names the images that a commit began with (moby's ImageHistory).
            item = image["History"][1]
            item["Id"], item["Tags"] = image["Parent"], by_id[image["Parent"]]["RepoTags"]
        # Since API 1.50 an image's configuration has no members that concern containers alone.
        for name in _OF_CONTAINERS_ALONE:
            assert not image["Config"].pop(name), name


# Members of a container's configuration that images had, too, always empty.
_OF_CONTAINERS_ALONE = (
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "OpenStdin",
    "StdinOnce",
    "Tty",
)


def _of_container_now(container: dict[str, Any]) -> None:
    # The API's description has a map there, which typed clients cannot read from null.
    assert container["GraphDriver"]["Data"] is None
    container["GraphDriver"]["Data"] = {}
    # moby masks this file since its version 26 (GHSA-6fw5-f8r9-fgfm).
    paths = container["HostConfig"]["MaskedPaths"]
    if paths:
        paths.insert(paths.index("/proc/kcore"), "/proc/interrupts")


def test_the_api_answers_as_before(taken_over: tuple[Daemon, Answers]) -> None:
    daemon, before = taken_over
    _as_answered_now(before)
    for name in _STARTED_AGAIN:
        until(lambda name=name: _state(daemon, name) == "running", 90)  # type: ignore[misc]
    until(lambda: "removed-when-ended" not in daemon.must("ps", "-a", "--format", "{{.Names}}").split())
    after = ask(daemon)
    assert after.containers.keys() == before.containers.keys() - {"removed-when-ended"}
    for name, was in after.containers.items():
        listed, listed_before = after.listed[name], before.listed[name]
        if name in _ENDED | _STARTED_AGAIN:
            # A loss of power is a failure: both policies count it.
            assert was.pop("RestartCount") == (name in _STARTED_AGAIN)
            before.containers[name].pop("RestartCount")
            assert _without_run(was) == _without_run(before.containers[name]), name
            assert _without_run(listed) == _without_run(listed_before), name
        else:
            assert was == before.containers[name], name
            # "Exited (0) 3 minutes ago": the rest is the same to the letter.
            status, status_before = (item.pop("Status").partition(")")[0] for item in (listed, listed_before))
            assert (status, listed) == (status_before, listed_before), name
    for name in _ENDED:
        state, state_before = (answers.containers[name]["State"] for answers in (after, before))
        assert (state["Status"], state["Running"], state["Paused"], state["Pid"]) == ("exited", False, False, 0), name
        assert (state["ExitCode"], state["StartedAt"]) == (137, state_before["StartedAt"]), name
        assert state["FinishedAt"] > state["StartedAt"], name
        assert after.containers[name]["ExecIDs"] is None, name
    addressed = after.containers["addressed"]["NetworkSettings"]["Networks"]
    assert addressed["front"]["IPAMConfig"] == {"IPv4Address": "10.77.0.9"}
    for name, network in before.networks.items():
        now = after.networks[name]
        running = {before.containers[item]["Id"] for item in _STARTED_AGAIN} if name == "bridge" else set()
        assert now.pop("Containers").keys() == running, name
        network.pop("Containers")
        assert now == network, name
    assert after.volumes == before.volumes
    assert after.images == before.images
    for image, item in before.listed_images.items():
        # The container that removed itself used it.
        item["Containers"] -= "tool:1" in item["RepoTags"]
        assert after.listed_images[image] == item
    for name, log in after.logs.items():
        if name == "always":
            assert log[0].startswith(before.logs[name][0])
            assert log[0].endswith(" run\n")
        else:
            assert log == before.logs[name], name


def test_containers_start_again_and_go(taken_over: tuple[Daemon, Answers]) -> None:
    daemon, before = taken_over
    # What a container wrote is on its disk, on a volume's, and in the image that was made of it.
    assert daemon.must("start", "-a", "created") == "started later\nlater\n"
    done = daemon.docker("start", "-a", "exited")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\nfirst\nfirst\n", "err\n")
    assert daemon.must("start", "-a", "anonymous") == "mine\nmine\n"
    assert daemon.must("start", "-a", "sharing") == "mine\nmine\n"
    assert daemon.must("start", "-a", "sized") == "sized\nsized\n"
    assert daemon.must("start", "-a", "created-bound") == "of the host\n"
    assert daemon.must("run", "--rm", "committed:1") == "first\n"
    volume = "--volume=named:/named"
    assert daemon.must("run", "--rm", volume, "tool:1", "cat:/named/log") == "running\n"
    # The logs go on where they ended.
    assert daemon.must("logs", "--timestamps", "exited").startswith(before.logs["exited"][0])
    # Runs, with its addresses, ports and probes.
    daemon.must(
        "start", "running", "addressed", "published", "healthy", "linked", "created-limited", "created-privileged"
    )
    networks = _state(daemon, "addressed", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}} {{end}}")
    assert networks == "10.78.0.200 02:42:0a:4e:00:c8 10.77.0.9 02:42:0a:4d:00:99"
    assert daemon.must("port", "published", "80/tcp").splitlines() == ["0.0.0.0:18081", "[::]:18081"]
    until(lambda: _state(daemon, "healthy", "{{.State.Health.Status}}") == "healthy", 60)
    until(lambda: _state(daemon, "created-limited") == "exited")
    assert daemon.must("logs", "created-limited") == "limited\n"
    assert daemon.docker("start", "missing-program").returncode
    # All of it can go.
    names = daemon.must("ps", "-aq").split()
    daemon.must("rm", "-f", "-v", *names)
    daemon.must("network", "rm", "front", "back")
    daemon.must("volume", "rm", "named", "sized")
    daemon.must("image", "rm", "committed:1", "healthy:1", "registry.example.org/team/tool:stable", "tool:1")
    assert not list((daemon.root / "data/containers").iterdir())
    assert not list((daemon.root / "data/layers").glob("*.erofs"))
    assert daemon.must("volume", "ls", "-q") == ""
