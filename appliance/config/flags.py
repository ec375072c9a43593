"""From the command line and the configuration file of vchd to a `Config`."""

import argparse
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.config.builder import BuilderConfig
from appliance.config.model import Config
from appliance.config.rows import GROUPS, Setting
from appliance.config.table import BUILDER_ROWS, DAEMON_SETTINGS, VSPHERE_ROWS
from appliance.config.vsphere import VsphereConfig
from appliance.errors import InvalidParameter

_BY_KEY = {row.key: row for row in DAEMON_SETTINGS}
_SECTIONS = tuple(dict.fromkeys(row.section for row in DAEMON_SETTINGS if row.section))
_VSPHERE_NAMES = frozenset(row.name for row in VSPHERE_ROWS)
_BUILDER_NAMES = frozenset(row.name for row in BUILDER_ROWS)


def parse_arguments(arguments: list[str]) -> Config:
    """The settings of vchd. Flags win over `--config-file` (JSON with the keys of dockerd's daemon.json, and ours).

    InvalidParameter names the setting that is wrong. argparse ends the program for an unknown flag, as it does for dockerd's.
    """
    given = {key: value for key, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    file = given.pop("config_file", None)
    values: dict[str, object] = {**(_read_file(file) if file is not None else {}), **given}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    if values.get("tls_allow") and not values.get("tlsverify"):
        raise InvalidParameter("--tls-allow needs --tlsverify: without it clients do not prove who they are")
    if "tlsverify" in values:
        # As dockerd: TLS, with or without certificates of the clients.
        values["tls"] = True
    _check_authenticated(values)
    if values.get("pause_by") == "suspend" and values.get("hypervisor") != "vsphere":
        raise InvalidParameter("--pause-by suspend needs --hypervisor vsphere")
    vsphere = {name: values.pop(name) for name in _VSPHERE_NAMES & values.keys()}
    builder = {name: values.pop(name) for name in _BUILDER_NAMES & values.keys()}
    # The table has the types of the fields.
    return Config(**values, vsphere=VsphereConfig(**vsphere), builder=BuilderConfig(**builder))  # type: ignore[arg-type]


def _check_authenticated(values: Mapping[str, object]) -> None:
    """InvalidParameter when the API would be served by TCP without TLS, and nobody has said that this is intended."""
    hosts = values.get("hosts", ())
    assert isinstance(hosts, tuple)
    for host in hosts:
        if str(host).startswith("tcp://") and values.get("tls") is None:
            raise InvalidParameter(
                f"-H {host} without TLS would give every client that reaches it, and scripts run in a browser, the rights of "
                "root on this host: use --tlsverify, or --tls=false if that is intended"
            )


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vchd", description="A virtual container host: the Docker Engine API, with one VM per container."
    )
    for group in GROUPS:
        rows = [row for row in DAEMON_SETTINGS if row.group == group]
        if not rows:
            continue
        section = parser.add_argument_group(group)
        for row in rows:
            _add_flag(section, row)
        if group == "Daemon":
            section.add_argument("--config-file", type=Path, metavar="FILE", help="JSON file with these settings")
    return parser


def _add_flag(group: "argparse._ArgumentGroup", row: Setting) -> None:
    help = row.help_with_default().replace("%", "%%")
    if row.kind == "on":
        group.add_argument(
            *row.flags, dest=row.name, nargs="?", const=True, type=_converter(row), metavar="true|false", help=help
        )
        return
    group.add_argument(
        *row.flags,
        dest=row.name,
        action="append" if row.kind == "list" else "store",
        type=_converter(row),
        choices=row.choices or None,
        metavar=row.metavar or (None if row.choices else _metavar(row)),
        help=help,
    )


def _metavar(row: Setting) -> str:
    return {"path": "PATH", "number": "NUMBER"}.get(row.kind, row.flags[-1].lstrip("-").replace("-", "_").upper())


def _converter(row: Setting) -> Callable[[str], object]:
    def convert(text: str) -> object:
        if row.choices:
            # argparse refuses other values, with the list of the choices.
            return text
        try:
            return row.value_of(text)
        except InvalidParameter as error:
            raise InvalidParameter(f"{row.flags[-1]}: {error}") from error

    return convert


def _read_file(path: Path) -> dict[str, object]:
    """The values by the names of their settings. InvalidParameter when the file is not usable, names an unknown key or a wrong value."""
    refusal = f"unable to configure the daemon with file {path}"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{refusal}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name, {}), dict) for name in _SECTIONS):
        raise InvalidParameter(f"{refusal}: it holds no settings")
    found = _flat(content)
    if unknown := sorted(found.keys() - _BY_KEY.keys()):
        raise InvalidParameter(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    values = {}
    for key, value in found.items():
        row = _BY_KEY[key]
        try:
            values[row.name] = _from_json(row, value)
        except InvalidParameter as error:
            raise InvalidParameter(f"{refusal}: {key}: {error}") from error
    return values


def _flat(content: Mapping[str, object]) -> dict[str, object]:
    """The content without its sections: what is in a section keeps its own key, an unknown key gets the section's name before it."""
    found = {key: value for key, value in content.items() if key not in _SECTIONS}
    for section in _SECTIONS:
        inside = content.get(section, {})
        assert isinstance(inside, dict)
        for key, value in inside.items():
            known = key in _BY_KEY and _BY_KEY[key].section == section
            found[key if known else f"{section}.{key}"] = value
    return found


def _from_json(row: Setting, value: object) -> object:
    """The value of a setting from its JSON. InvalidParameter when it has a wrong type, or is malformed."""
    if row.from_object is not None and isinstance(value, dict):
        value = row.from_object(value)
    match row.kind, value:
        case "on" | "on|off", bool():
            return value
        case "list", list() if all(isinstance(item, str) for item in value):
            return [row.value_of(item) for item in value]
        case "number", int() if not isinstance(value, bool):
            return row.value_of(str(value))
        case "text" | "path" | "number" | "on|off", str(text):
            return row.value_of(text)
    wanted = {"on": "true or false", "on|off": "on or off", "list": "a list of texts", "number": "a number"}
    raise InvalidParameter(f"expected {wanted.get(row.kind, 'a text')}, got {json.dumps(value)}")
