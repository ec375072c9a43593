"""Lifecycle, signals, the spec."""

import json

import pytest

from appliance.container.capabilities import capabilities
from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import (
    Created,
    Event,
    Exit,
    Exited,
    NeverStarted,
    Remove,
    Removing,
    Running,
    Start,
    Started,
    StartFailed,
    Starting,
    State,
    advance,
)
from appliance.container.signals import parse_signal
from appliance.container.spec import build_spec
from appliance.errors import Conflict, InvalidParameter, NotModified


@pytest.mark.parametrize(
    ("state", "event", "result"),
    [
        (Created(), Start(), Starting()),
        (Exited(1, 2, 3), Start(), Starting()),
        (Starting(), Started(5, 9), Running(5, 9)),
        (Starting(), StartFailed("no", 127, Created()), Created("no", 127)),
        (Starting(), StartFailed("no", 127, Exited(1, 2, 0)), Exited(1, 2, 127, error="no")),
        (Starting(), NeverStarted(Exited(1, 2, 3)), Exited(1, 2, 3)),
        (Running(5, 9), Exit(7, 137, True), Exited(5, 7, 137, True)),
        (Running(5, 9), Remove(True, "x"), Removing()),
        (Created(), Remove(False, "x"), Removing()),
    ],
)
def test_moves(state: State, event: Event, result: State) -> None:
    assert advance(state, event) == result


@pytest.mark.parametrize(
    ("state", "event", "error"),
    [
        (Running(1, 1), Start(), NotModified),
        (Removing(), Start(), Conflict),
        (Running(1, 1), Remove(False, "x"), Conflict),
        (Removing(), Remove(True, "x"), Conflict),
    ],
)
def test_refusals(state: State, event: Event, error: type[Exception]) -> None:
    with pytest.raises(error):
        advance(state, event)


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("HUP", 1)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "-1", "NOPE", "SIG"])
def test_no_signals(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_signal(text)


def test_capabilities() -> None:
    assert capabilities(HostConfig(cap_drop=["ALL"])) == []
    assert capabilities(HostConfig(cap_drop=["all"], cap_add=["net_admin"])) == ["CAP_NET_ADMIN"]
    assert "CAP_SYS_ADMIN" in capabilities(HostConfig(privileged=True))
    assert "CAP_CHOWN" not in capabilities(HostConfig(cap_drop=["CAP_CHOWN"]))
    assert "CAP_CHOWN" not in capabilities(HostConfig(cap_add=["ALL"], cap_drop=["CHOWN"]))
    with pytest.raises(InvalidParameter, match="CAP_FLY"):
        capabilities(HostConfig(cap_add=["FLY"]))


def test_spec() -> None:
    config = ContainerConfig(entrypoint=["/e"], cmd=["a"], env=["X=1"], tty=True, user="u:g")
    host_config = HostConfig(init=True, memory=1 << 26, memory_swap=1 << 27)
    spec = json.loads(build_spec(config, host_config, "box", []))
    assert spec["process"]["args"] == ["/sbin/docker-init", "--", "/e", "a"]
    assert {"HOSTNAME=box", "TERM=xterm", "X=1"} <= set(spec["process"]["env"])
    assert spec["process"]["user"]["username"] == "u:g"
    assert spec["linux"]["resources"]["memory"] == {"limit": 1 << 26, "swap": 1 << 27}
    with pytest.raises(InvalidParameter, match="no command specified"):
        build_spec(ContainerConfig(), HostConfig(), "box", [])
