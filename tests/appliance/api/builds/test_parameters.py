"""BUILD_FIELDS.md says what becomes of each parameter of a build, and the code does what the table says."""

import base64
import json
import urllib.parse
from pathlib import Path
from typing import Any, cast

import pytest

import appliance.api
from appliance.api.builds.parameters import FIELDS, build_request, document, image_names, registry_credentials
from appliance.container.build_request import BuildOutput, BuildRequest, BuildUlimit
from appliance.container.fields import Decision
from appliance.errors import InvalidParameter
from appliance.http import Request
from appliance.http.connection import Connection
from appliance.http.head import Head
from appliance.registry import Credentials

_DOCUMENT = Path(str(appliance.api.__file__)).parent / "BUILD_FIELDS.md"
# What the CLI sends for `docker build .`, and docker-py for `images.build(fileobj=...)`.
_CLI = (
    "buildargs=%7B%7D&cachefrom=%5B%5D&cgroupparent=&cpuperiod=0&cpuquota=0&cpusetcpus=&cpusetmems=&cpushares=0"
    "&dockerfile=Dockerfile&labels=%7B%7D&memory=0&memswap=0&networkmode=default&rm=1&shmsize=0&t=a%3Ab&target=&ulimits=%5B%5D&version=1"
)
_DOCKER_PY = "t=a&q=False&nocache=False&rm=False&forcerm=False&pull=False&dockerfile=Dockerfile"


def _request(query: str, headers: dict[str, str] | None = None, version: tuple[int, int] = (1, 51)) -> Request:
    head = Head("POST", f"/build?{query}", headers or {}, "1.1", True, 0, False)
    request = Request(cast(Connection, None), head)
    request.version = version
    return request


def _asked(api: tuple[int, int] = (1, 51), /, **given: Any) -> BuildRequest:
    return build_request(_request(urllib.parse.urlencode(given, doseq=True), version=api))[0]


def test_the_document_shows_the_table() -> None:
    # python -c "from appliance.api.builds.parameters import document; print(document(), end='')" > appliance/api/BUILD_FIELDS.md
    assert _DOCUMENT.read_text() == document()


def test_what_clients_send_by_default() -> None:
    assert build_request(_request(_CLI)) == (
        BuildRequest(dockerfile="Dockerfile", networkmode="default", t=("a:b",)),
        [],
    )
    assert build_request(_request(_DOCKER_PY)) == (BuildRequest(dockerfile="Dockerfile", t=("a",), rm=False), [])
    assert build_request(_request("")) == (BuildRequest(), [])
    nulls = "buildargs=null&cachefrom=null&labels=null&ulimits=null&memory=&version=&t="
    assert build_request(_request(nulls)) == (BuildRequest(), [])


@pytest.mark.parametrize("name", FIELDS)
def test_a_parameter_has_its_effect_or_is_named(name: str) -> None:
    """Each parameter changes the request, or is warned of, or is refused, as the table says."""
    values: dict[str, Any] = {
        "t": ["a", "b"],
        "extrahosts": ["a:1.2.3.4"],
        "q": "1",
        "nocache": "true",
        "pull": "1",
        "rm": "0",
        "forcerm": "1",
        "buildargs": '{"a":"b","c":null}',
        "labels": '{"a":"b"}',
        "cachefrom": '["a"]',
        "ulimits": '[{"Name":"nofile","Soft":1,"Hard":2}]',
        "outputs": '[{"Type":"local","Attrs":{"a":"b"}}]',
        "version": "2",
        "remote": "https://example.com/a.git",
        "networkmode": "none",
        "platform": "linux/amd64",
        "squash": "1",
        "cpusetcpus": "0",
        "cpusetmems": "0",
    } | dict.fromkeys(("memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "shmsize"), "7")
    given = {name: values.get(name, "something")} | ({"version": "2"} if name == "outputs" else {})
    request = _request(urllib.parse.urlencode(given, doseq=True))
    if FIELDS[name].decision is Decision.REFUSED:
        with pytest.raises(InvalidParameter):
            build_request(request)
        return
    decoded, warnings = build_request(request)
    assert getattr(decoded, name) != getattr(BuildRequest(), name)
    assert bool(warnings) == (FIELDS[name].decision is Decision.WARNED)


def test_values() -> None:
    decoded = _asked(
        t=["a", "b"],
        buildargs='{"a":"b","c":null}',
        ulimits='[{"name":"nofile","Soft":1,"Hard":2}]',
        outputs='[{"Type":"local","Attrs":{"a":"b"}}]',
        memory="+5",
        version="2",
    )
    assert decoded.t == ("a", "b")
    assert decoded.buildargs == {"a": "b", "c": None}
    assert decoded.ulimits == [BuildUlimit("nofile", 1, 2)]
    assert decoded.outputs == [BuildOutput("local", {"a": "b"})]
    assert decoded.memory == 5


def test_older_clients_have_fewer_parameters() -> None:
    assert _asked((1, 31), platform="linux/amd64").platform == ""
    assert _asked((1, 39), outputs='[{"Type":"local"}]').outputs == []


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"buildargs": "{"}, "error reading build args: "),
        ({"buildargs": "[1]"}, "error reading build args|buildargs is not"),
        ({"labels": '{"a":1}'}, "labels is not a map of strings"),
        ({"labels": '{"a":null}'}, "labels is not a map of strings"),
        ({"cachefrom": "{}"}, "cachefrom is not a list of strings"),
        ({"ulimits": "x"}, "error reading ulimit settings: "),
        ({"ulimits": '[{"Soft":1}]'}, "invalid ulimit type: "),
        ({"outputs": "x", "version": "2"}, "invalid outputs specified: "),
        ({"memory": "x"}, 'invalid memory value: strconv.ParseInt: parsing "x": invalid syntax'),
        ({"shmsize": "1" * 30}, "invalid shmsize value"),
        ({"platform": "foobar"}, 'invalid platform: "foobar": unknown operating system'),
        ({"t": ["a"] * 65}, "too many names"),
        ({"buildargs": "[" * 100000}, "error reading build args"),
    ],
)
def test_malformed(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        _asked(**given)


def test_an_unknown_parameter_is_named() -> None:
    assert build_request(_request("layers=true"))[1] == ["layers is not known here and was ignored"]


def test_names() -> None:
    found = image_names(BuildRequest(t=("a", "a:latest", "localhost:5000/b:1")))
    assert [str(name) for name in found] == ["a:latest", "localhost:5000/b:1"]
    with pytest.raises(InvalidParameter, match="build tag cannot contain a digest"):
        image_names(BuildRequest(t=(f"a@sha256:{'0' * 64}",)))
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        image_names(BuildRequest(t=("A b",)))


def _configured(value: Any) -> dict[str, Credentials]:
    text = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
    return registry_credentials(_request("", {"x-registry-config": text}))


def test_credentials() -> None:
    found = _configured(
        {
            "https://index.docker.io/v1/": {"username": "a", "password": "b"},
            "https://r.example:5000/v1/": {"identitytoken": "t"},
            "bad": 1,
            "odd": {"username": 1},
        }
    )
    assert found == {
        "registry-1.docker.io": Credentials("a", "b"),
        "r.example:5000": Credentials("", "", "t"),
        "odd": Credentials(),
    }
    for header in ("", "!!", base64.urlsafe_b64encode(b"[1]").decode()):
        assert registry_credentials(_request("", {"x-registry-config": header})) == {}
    with pytest.raises(InvalidParameter, match="more than 128 registries"):
        _configured({str(number): {} for number in range(129)})
