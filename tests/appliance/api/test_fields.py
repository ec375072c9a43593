"""FIELDS.md says what the code does with every field of a create request, and the code does what the table says."""

import re
from pathlib import Path
from typing import Any

import pytest

import appliance.api
from appliance.api.config_checks import decode_config
from appliance.api.fields import CONFIG, HOST, document
from appliance.api.host_config_checks import decode_host_config
from appliance.container.fields import Decision, Field, Kind
from appliance.errors import InvalidParameter

_DOCUMENT = Path(str(appliance.api.__file__)).parent / "FIELDS.md"
_SOMETHING: dict[Kind, Any] = {
    Kind.TEXT: "something",
    Kind.FLAG: True,
    Kind.NUMBER: 7,
    Kind.TEXTS: ["something"],
    Kind.COMMAND: ["something"],
    Kind.TEXT_MAP: {"a": "b"},
    Kind.MAP: {"a": {}},
    Kind.LIST: [{"a": "b"}],
}
_BOTH = [("Config", name, field) for name, field in CONFIG.items()] + [("HostConfig", n, f) for n, f in HOST.items()]


def test_the_document_shows_the_tables() -> None:
    # After a change: python -c "from appliance.api.fields import document; print(document(), end='')" > appliance/api/FIELDS.md
    assert _DOCUMENT.read_text() == document()
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (\w+) \| (.*) \|$", _DOCUMENT.read_text(), re.MULTILINE)
    assert rows == [(place, name, field.decision.value, field.note) for place, name, field in _BOTH]


@pytest.mark.parametrize(("place", "name", "field"), _BOTH)
def test_a_field_is_refused_or_warned_of_as_the_table_says(place: str, name: str, field: Field) -> None:
    if field.decision is Decision.HONOURED:
        return
    decode = decode_config if place == "Config" else decode_host_config
    given = {name: _SOMETHING[field.kind]}
    if field.decision is Decision.REFUSED:
        with pytest.raises(InvalidParameter, match=name):
            decode(given)
    else:
        assert any(warning.startswith(f"{name} was discarded") for warning in decode(given)[1])
    for value in (None, *field.harmless):
        assert decode({name: value})[1] == []


@pytest.mark.parametrize(("place", "name", "field"), _BOTH)
def test_a_field_of_another_type_is_refused(place: str, name: str, field: Field) -> None:
    decode = decode_config if place == "Config" else decode_host_config
    wrong = 7 if field.kind is not Kind.NUMBER else "seven"
    with pytest.raises(InvalidParameter, match=f"{name} is not {field.kind.value}"):
        decode({name: wrong})


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({"IpcMode": "other"}, "^invalid IPC mode: other$"),
        ({"IpcMode": "container:"}, "^invalid IPC mode: container:$"),
        ({"PidMode": "container"}, "^invalid PID mode: container$"),
        ({"PidMode": "container:"}, "^invalid PID mode: container:$"),
        ({"UTSMode": "container:x"}, "^invalid UTS mode: container:x$"),
        ({"UsernsMode": "container:x"}, "^invalid USER mode: container:x$"),
        ({"CgroupnsMode": "container:x"}, "^invalid cgroup namespace mode: container:x$"),
        ({"Mounts": [{"Type": "bind", "Source": "a", "Target": "/b"}]}, "mount path must be absolute"),
        ({"Mounts": [{"Type": "npipe", "Source": "/a", "Target": "/b"}]}, "mount type unknown"),
        ({"Binds": ["/a:/b", "/c:/b"]}, "Duplicate mount point: /b"),
        ({"PortBindings": {"80/sctp": []}}, "sctp ports cannot be published"),
        ({"PortBindings": {"80/tcp": [{"HostPort": "90000"}]}}, "invalid port range"),
        ({"Mounts": [{"Type": "tmpfs", "Target": "rel"}]}, "invalid mount path"),
        ({"Devices": [{"PathOnHost": "/etc/passwd"}]}, "names no device"),
        ({"SecurityOpt": ["seccomp={"]}, "Decoding seccomp profile failed"),
        ({"LogConfig": {"Type": "json-file", "Config": {"max-buffer-size": "1m"}}}, "only supported with"),
        ({"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "0"}}}, "cannot be less than 1"),
        ({"ConsoleSize": [1]}, "invalid ConsoleSize"),
    ],
)
def test_what_cannot_be_is_refused_in_words(host: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        decode_host_config(host)


def test_log_options_without_effect_are_named() -> None:
    config = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2", "compress": "true", "env-regex": "x"}}
    assert decode_host_config({"LogConfig": config})[1] == ["log option compress was discarded"]
