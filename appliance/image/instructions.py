"""Applies Dockerfile instructions to an image's configuration: `docker commit --change`, `docker import --change`. Pure.

Instructions that run or copy something are refused, as by Docker.
Sources: moby daemon/builder/dockerfile (BuildFromConfig, dispatchers), buildkit frontend/dockerfile/instructions.
"""

import posixpath
import re
from collections.abc import Callable

import msgspec

from appliance.container.config import ContainerConfig, Empty, HealthConfig
from appliance.container.signals import parse_signal
from appliance.container.times import parse_duration
from appliance.errors import InvalidParameter
from appliance.image.dockerfile import (
    LogicalLine,
    arguments,
    escape_token,
    key_values,
    logical_lines,
    split_instruction,
    string_list,
)
from appliance.image.shell_words import Expander

_DEFAULT_SHELL = ("/bin/sh", "-c")
_MOST_PORTS = 3 * 65536
_MILLISECOND = 1_000_000


def apply_instructions(config: ContainerConfig, changes: list[str]) -> ContainerConfig:
    """Return a changed copy of the configuration. Each text has one or more lines. InvalidParameter with Docker's text.

    This takes time that grows with the values to which variables expand: call it in a thread.
    """
    if not changes:
        return config
    text = "\n".join(changes)
    escape = escape_token(text)
    parsed = [_parse(line, escape) for line in logical_lines(text, escape)]
    if not parsed:
        raise InvalidParameter("file with no instructions")
    builder = _Builder(config, escape)
    for name, flags, rest in parsed:
        _HANDLERS[name](builder, flags, rest)
    return builder.result()


def _parse(line: LogicalLine, escape: str) -> tuple[str, list[str], str]:
    name, flags, rest = split_instruction(line.text, escape)
    upper = name.upper()
    if upper not in _HANDLERS:
        raise InvalidParameter(f"{name} is not a valid change command")
    if upper != "HEALTHCHECK":
        _refuse_flags(flags, ())
    if upper == "ONBUILD":
        _check_trigger(rest)
        # The trigger stays as it is written, with blanks at its end.
        rest = line.text.partition(name)[2].lstrip() + line.heredocs
    return upper, flags, rest


class _Builder:
    """The configuration, while instructions change it. The environment is kept by name."""

    def __init__(self, config: ContainerConfig, escape: str) -> None:
        self.config = msgspec.structs.replace(config)
        self.command_set = False
        self._environment = {entry.partition("=")[0]: entry for entry in config.env or ()}
        self._values = {key: entry.partition("=")[2] for key, entry in self._environment.items()}
        self._escape = escape
        self._expander = Expander(escape)
        self._ports_left = _MOST_PORTS

    def result(self) -> ContainerConfig:
        if self._environment:
            self.config.env = list(self._environment.values())
        return self.config

    def expand(self, text: str) -> str:
        return self._expander.word(text, self._values)

    def command(self, text: str) -> list[str]:
        """The words of a command: a JSON list, or a line for the shell."""
        words = string_list(text)
        if words is not None:
            return words
        return [*(self.config.shell or _DEFAULT_SHELL), *([text] if text else [])]

    def cmd(self, flags: list[str], text: str) -> None:
        self.config.cmd = self.command(text)
        self.command_set = bool(text) and string_list(text) != []

    def entrypoint(self, flags: list[str], text: str) -> None:
        # An empty entrypoint changes nothing, as in Docker: the container's is merged in again.
        self.config.entrypoint = (self.command(text) or None) if text else None
        if not self.command_set:
            self.config.cmd = None

    def env(self, flags: list[str], text: str) -> None:
        # All values of one instruction see the variables from before it.
        pairs = [(self.expand(key), self.expand(value)) for key, value in key_values("ENV", text, self._escape)]
        for key, value in pairs:
            self._environment[key] = f"{key}={value}"
            self._values[key] = value

    def label(self, flags: list[str], text: str) -> None:
        pairs = {self.expand(key): self.expand(value) for key, value in key_values("LABEL", text, self._escape)}
        self.config.labels = (self.config.labels or {}) | pairs

    def expose(self, flags: list[str], text: str) -> None:
        if not text:
            raise InvalidParameter("EXPOSE requires at least one argument")
        ports: dict[str, Empty] = {}
        for word in self._expander.words(text, self._values):
            first, last, protocol = _port_range(word)
            self._ports_left -= last - first + 1
            if self._ports_left < 0:
                raise InvalidParameter("EXPOSE has too many ports")
            ports |= {f"{port}/{protocol}": Empty() for port in range(first, last + 1)}
        self.config.exposed_ports = {**(self.config.exposed_ports or {}), **ports}

    def user(self, flags: list[str], text: str) -> None:
        self.config.user = self.expand(_only_argument("USER", text))

    def workdir(self, flags: list[str], text: str) -> None:
        path = self.expand(_only_argument("WORKDIR", text))
        if not path:
            raise InvalidParameter("cannot normalize nothing")
        joined = posixpath.normpath(posixpath.join("/", self.config.working_dir, path))
        self.config.working_dir = f"/{joined.lstrip('/')}"

    def volume(self, flags: list[str], text: str) -> None:
        paths = [path.strip() for path in arguments(text)]
        if not paths:
            raise InvalidParameter("VOLUME requires at least one argument")
        paths = [self.expand(path) for path in paths if path]
        if not paths or not all(paths):
            raise InvalidParameter("VOLUME specified can not be an empty string")
        self.config.volumes = {**(self.config.volumes or {}), **{path: Empty() for path in paths}}

    def stop_signal(self, flags: list[str], text: str) -> None:
        name = self.expand(_only_argument("STOPSIGNAL", text))
        parse_signal(name)
        self.config.stop_signal = name

    def on_build(self, flags: list[str], text: str) -> None:
        self.config.on_build = [*(self.config.on_build or ()), text]

    def healthcheck(self, flags: list[str], text: str) -> None:
        if not text:
            raise InvalidParameter("HEALTHCHECK requires at least one argument")
        kind, rest = (*text.split(maxsplit=1), "")[:2]
        match kind.upper():
            case "NONE" if rest:
                raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
            case "NONE":
                self.config.healthcheck = HealthConfig(test=["NONE"])
                return
        health = _health_flags(flags)
        if kind.upper() != "CMD":
            raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
        if not rest or string_list(rest) == []:
            raise InvalidParameter("Missing command after HEALTHCHECK CMD")
        words = string_list(rest)
        health.test = ["CMD-SHELL", rest] if words is None else ["CMD", *words]
        self.config.healthcheck = health


def _only_argument(name: str, text: str) -> str:
    if not text:
        raise InvalidParameter(f"{name} requires exactly one argument")
    return text


def _check_trigger(text: str) -> None:
    if not text:
        raise InvalidParameter("ONBUILD requires at least one argument")
    name, _, rest = split_instruction(text)
    match name.upper():
        case "ONBUILD":
            raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
        case "FROM" | "MAINTAINER":
            raise InvalidParameter(f"{name.upper()} isn't allowed as an ONBUILD trigger")
        case "ENV" | "LABEL":
            key_values(name.upper(), rest)


def _port_range(word: str) -> tuple[int, int, str]:
    """First and last port and the protocol of `[[ip:]hostPort:]port[-port][/protocol]`."""
    ports, _, protocol = word.rpartition(":")[2].partition("/")
    if not ports:
        raise InvalidParameter(f"no port specified: {word}<empty>")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid proto: {protocol}")
    found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", ports)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < 1 << 16:
        raise InvalidParameter(f"invalid containerPort: {ports}")
    return first, last, protocol


def _refuse_flags(flags: list[str], known: tuple[str, ...]) -> dict[str, str]:
    """The values of the known flags. InvalidParameter for another flag, for a repeated one and for one without a value."""
    values: dict[str, str] = {}
    for flag in flags:
        name, equals, value = flag.partition("=")
        if name not in known:
            raise InvalidParameter(f"unknown flag: {name}")
        if name in values:
            raise InvalidParameter(f"duplicate flag specified: {name}")
        if not equals:
            raise InvalidParameter(f"missing a value on flag: {name}")
        values[name] = value
    return values


_TIMES = {
    "--interval": "interval",
    "--timeout": "timeout",
    "--start-period": "start_period",
    "--start-interval": "start_interval",
}


def _health_flags(flags: list[str]) -> HealthConfig:
    values = _refuse_flags(flags, (*_TIMES, "--retries"))
    health = HealthConfig()
    for flag, attribute in _TIMES.items():
        if duration := _duration_ns(flag.removeprefix("--"), values.get(flag, "")):
            setattr(health, attribute, duration)
    retries = values.get("--retries") or "0"
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", retries):
        raise InvalidParameter(f'strconv.ParseInt: parsing "{retries}": invalid syntax')
    if int(retries) < 0:
        raise InvalidParameter(f"--retries cannot be negative ({int(retries)})")
    if int(retries):
        health.retries = int(retries)
    return health


def _duration_ns(name: str, text: str) -> int:
    if not text or text == "0":
        return 0
    duration = parse_duration(text.lstrip("+-"))
    if duration is None:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    if duration and (duration < _MILLISECOND or text.startswith("-")):
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return duration


_HANDLERS: dict[str, Callable[[_Builder, list[str], str], None]] = {
    "CMD": _Builder.cmd,
    "ENTRYPOINT": _Builder.entrypoint,
    "ENV": _Builder.env,
    "EXPOSE": _Builder.expose,
    "HEALTHCHECK": _Builder.healthcheck,
    "LABEL": _Builder.label,
    "ONBUILD": _Builder.on_build,
    "STOPSIGNAL": _Builder.stop_signal,
    "USER": _Builder.user,
    "VOLUME": _Builder.volume,
    "WORKDIR": _Builder.workdir,
}
