"""The filters of `docker ps`, as moby daemon/list.go."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from appliance.api.container_filters import container_filter, parse_container_filters
from appliance.api.filters import parse_filters
from appliance.container.config import ContainerConfig
from appliance.container.lifecycle import Created, Exited, Running, State
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Request
from tests.steps import cpu_of_steps


def _container(name: str, state: State, **more: Any) -> Any:
    """A container `name` whose id is 64 times its first letter."""
    record = SimpleNamespace(
        name=name,
        created=more.get("created", 0),
        image_id=more.get("image_id", ""),
        config=ContainerConfig(labels=more.get("labels", {}), exposed_ports=more.get("exposed", {})),
        attachments=more.get("attachments", []),
        mounts=more.get("mounts", []),
        bindings=more.get("bindings", []),
    )
    health = more.get("health")
    return SimpleNamespace(
        id=more.get("id", name[0] * 64),
        record=record,
        state=state,
        restarting=more.get("restarting", False),
        health=health and SimpleNamespace(status=health),
        endpoints=more.get("endpoints", [object()]),
    )


def _mount(name: str, source: str, destination: str) -> Any:
    return SimpleNamespace(name=name, source=source, destination=destination)


_WEB = _container(
    "web",
    Running(1, 7),
    created=1,
    image_id="base",
    labels={"tier": "front", "a": ""},
    attachments=[SimpleNamespace(network="front", network_id="f" * 64)],
    mounts=[_mount("data", "/var/data", "/data"), _mount("", "/host", "/mnt")],
    exposed={"8080/tcp": {}, "53/udp": {}},
    bindings=[SimpleNamespace(exposed="8080/tcp", host_ip="", host_port=32000, protocol="tcp")],
    health="healthy",
)
_JOB = _container("job", Exited(1, 2, 3, False, ""), created=2, image_id="child", labels={"tier": "back"}, endpoints=[])
_ZERO = _container("zero", Exited(1, 2, 0, restarting=True), created=3, image_id="other", endpoints=[], restarting=True)
_MADE = _container("made", Created("", 0), created=4, image_id="other", endpoints=[], id="w" + "e" * 63)
_ALL = [_WEB, _JOB, _ZERO, _MADE]


class _Registry:
    def all(self) -> list[Any]:
        return _ALL

    def get(self, ref: str) -> Any:
        for one in _ALL:
            if one.record.name == ref:
                return one
        raise NotFound(f"No such container: {ref}")


class _Images:
    def all(self) -> list[Any]:
        links = {"base": "", "child": "base", "other": ""}
        return [SimpleNamespace(id=key, parent=parent) for key, parent in links.items()]

    def get(self, ref: str) -> Any:
        if ref == "BAD":
            raise InvalidParameter("invalid reference format")
        found = [one for one in self.all() if one.id == ref]
        if not found:
            raise NotFound(f"No such image: {ref}")
        return found[0]


async def _names(text: str) -> list[str]:
    registry: Any = _Registry()
    images: Any = _Images()
    keep = await container_filter(parse_filters(text, "GET /containers/json"), registry, images)
    return [one.record.name for one in _ALL if keep(one)]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("{}", ["web", "job", "zero", "made"]),
        ('{"name":["^/web$"]}', ["web"]),
        ('{"name":["e"]}', ["web", "zero", "made"]),
        ('{"name":["("]}', []),
        (f'{{"id":["{"j" * 12}"]}}', ["job"]),
        # A prefix that two ids have names neither.
        ('{"id":["w"]}', []),
        ('{"id":["w","we"]}', ["made"]),
        ('{"id":[""]}', []),
        ('{"id":["j"],"name":["web"]}', []),
        ('{"label":["tier"]}', ["web", "job"]),
        ('{"label":["tier=front","a"]}', ["web"]),
        ('{"status":["exited","created"]}', ["job", "made"]),
        ('{"status":[]}', ["web", "job", "zero", "made"]),
        ('{"health":["healthy"]}', ["web"]),
        ('{"health":["none"]}', ["job", "zero", "made"]),
        ('{"exited":["3"]}', ["job"]),
        # A container that restarts counts as running, and one that was never started has no exit code.
        ('{"exited":["0"]}', []),
        ('{"before":["zero"]}', ["web", "job"]),
        ('{"since":["web"],"before":["made"]}', ["job", "zero"]),
        ('{"ancestor":["base"]}', ["web", "job"]),
        ('{"ancestor":["child","nobody","BAD"]}', ["job"]),
        ('{"ancestor":["nobody"]}', []),
        ('{"volume":["data"]}', ["web"]),
        ('{"volume":["/data"]}', ["web"]),
        ('{"volume":["/host"]}', ["web"]),
        # The source of a named volume is no name of it.
        ('{"volume":["/var/data"]}', []),
        ('{"network":["front"]}', ["web"]),
        ('{"network":["ffff"]}', ["web"]),
        ('{"network":["ront"]}', []),
        ('{"is-task":["false"]}', ["web", "job", "zero", "made"]),
        ('{"is-task":["1"]}', []),
        ('{"isolation":["default"]}', ["web", "job", "zero", "made"]),
        ('{"publish":["32000"]}', ["web"]),
        ('{"publish":["1-65535/tcp"]}', ["web"]),
        ('{"publish":["32000/udp"]}', []),
        ('{"publish":["8080"]}', []),
        ('{"expose":["8080/TCP"]}', ["web"]),
        ('{"expose":["50-60/udp"]}', ["web"]),
        ('{"publish":["1"],"expose":["8080"]}', ["web"]),
    ],
)
async def test_what_is_listed(filters: str, names: list[str]) -> None:
    assert await _names(filters) == names


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ('{"exited":["x"]}', "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"),
        ('{"publish":["x"]}', "error while looking up for publish x: invalid start port 'x': invalid syntax"),
        ('{"publish":[""]}', "error while looking up for publish : invalid start port '': value is empty"),
        ('{"expose":["1-"]}', "error while looking up for expose 1-: invalid end port '': value is empty"),
        ('{"expose":["9-1"]}', "error while looking up for expose 9-1: invalid port range: 9-1"),
        (
            '{"expose":["65536"]}',
            "error while looking up for expose 65536: invalid start port '65536': value out of range",
        ),
        ('{"publish":["1:2"]}', "filter for 'publish' should not contain ':': 1:2"),
    ],
)
async def test_values_that_are_refused(filters: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await _names(filters)
    assert str(caught.value) == message


@pytest.mark.parametrize("filters", ['{"before":["nobody"]}', '{"since":["nobody"]}'])
async def test_containers_that_do_not_exist(filters: str) -> None:
    with pytest.raises(NotFound, match="No such container: nobody"):
        await _names(filters)


def _request(query: str) -> Request:
    request = SimpleNamespace(query={}, text=lambda name: query if name == "filters" else "")
    return cast(Request, request)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ('{"label!":["a"]}', "invalid filter 'label!'"),
        (
            '{"status":["gone"]}',
            "invalid filter 'status=gone': invalid value for state (gone): must be one of created, running, paused, restarting, "
            "removing, exited, dead",
        ),
        (
            '{"health":["bad"]}',
            "invalid filter 'health=bad': invalid value for health (bad): must be one of none, starting, healthy, unhealthy",
        ),
        ('{"is-task":["maybe"]}', "invalid filter 'is-task=[maybe]'"),
        ('{"is-task":["true","false"]}', "invalid filter 'is-task=[true false]'"),
    ],
)
def test_filters_that_are_refused(filters: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_container_filters(_request(filters))
    assert str(caught.value) == message


async def test_many_values_cost_the_event_loop_no_time() -> None:
    many = {
        "publish": [f"{port}-65000" for port in range(1, 300)],
        "id": ["f" * 64],
        "name": ["(a+)+$", *map(str, range(600))],
    }
    with cpu_of_steps() as steps:
        await _names(msgspec.json.encode(many).decode())
    assert steps.longest < 0.05
