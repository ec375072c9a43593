"""Applies Dockerfile instructions to an image's configuration: `docker commit --change`, `docker import --change`. Pure.

Sources: Dockerfile reference; moby builder/dockerfile. Instructions that run or copy something are refused, as by Docker.
"""

import json
import re
import shlex
from collections.abc import Callable

import msgspec

from appliance.container.config import ContainerConfig, Empty, HealthConfig
from appliance.container.times import parse_duration
from appliance.errors import InvalidParameter


def apply_instructions(config: ContainerConfig, lines: list[str]) -> ContainerConfig:
    """Return a changed copy of the configuration. Each text has one or more lines. InvalidParameter with Docker's text."""
    result = msgspec.structs.replace(config)
    for text in lines:
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, _, rest = line.partition(" ")
            handler = _HANDLERS.get(name.upper())
            if handler is None:
                raise InvalidParameter(f"{name.upper()} is not a valid change command")
            handler(result, rest.strip())
    return result


def _command(text: str) -> list[str]:
    """The words of a command in the exec form (a JSON list) or the shell form."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return ["/bin/sh", "-c", text] if text else []


def _words(name: str, text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidParameter(f"{name}: {error}") from error
    if not words:
        raise InvalidParameter(f"{name} requires at least one argument")
    return words


def _pairs(name: str, text: str) -> dict[str, str]:
    words = _words(name, text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidParameter(f"{name} must have two arguments")
        return {key: value.strip()}
    pairs = dict(word.partition("=")[::2] for word in words)
    if "" in pairs or any("=" not in word for word in words):
        raise InvalidParameter(f'Syntax error - can\'t find = in "{text}". Must be of the form: name=value')
    return pairs


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = _command(text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = _command(text)


def _env(config: ContainerConfig, text: str) -> None:
    pairs = _pairs("ENV", text)
    kept = [entry for entry in config.env or () if entry.partition("=")[0] not in pairs]
    config.env = kept + [f"{key}={value}" for key, value in pairs.items()]


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = (config.labels or {}) | _pairs("LABEL", text)


def _expose(config: ContainerConfig, text: str) -> None:
    ports = {}
    for word in _words("EXPOSE", text):
        number, _, protocol = word.partition("/")
        if not re.fullmatch(r"[0-9]+(-[0-9]+)?", number) or protocol.lower() not in ("", "tcp", "udp", "sctp"):
            raise InvalidParameter(f"invalid containerPort: {word}")
        first, _, last = number.partition("-")
        if not 0 < int(first) <= int(last or first) < 1 << 16:
            raise InvalidParameter(f"invalid containerPort: {word}")
        for port in range(int(first), int(last or first) + 1):
            ports[f"{port}/{protocol.lower() or 'tcp'}"] = Empty()
    config.exposed_ports = {**(config.exposed_ports or {}), **ports}


def _user(config: ContainerConfig, text: str) -> None:
    (config.user,) = _exactly_one("USER", text)


def _exactly_one(name: str, text: str) -> list[str]:
    words = _words(name, text)
    if len(words) != 1:
        raise InvalidParameter(f"{name} requires exactly one argument")
    return words


def _workdir(config: ContainerConfig, text: str) -> None:
    (path,) = _exactly_one("WORKDIR", text)
    config.working_dir = path if path.startswith("/") else f"{config.working_dir}/{path}"


def _volume(config: ContainerConfig, text: str) -> None:
    words = _command(text) if text.startswith("[") else _words("VOLUME", text)
    config.volumes = {**(config.volumes or {}), **{word: Empty() for word in words}}


def _stopsignal(config: ContainerConfig, text: str) -> None:
    (config.stop_signal,) = _exactly_one("STOPSIGNAL", text)


def _onbuild(config: ContainerConfig, text: str) -> None:
    if not text or text.split()[0].upper() in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidParameter(f"{(text.split() or ['ONBUILD'])[0]} isn't allowed as an ONBUILD trigger")
    config.on_build = [*(config.on_build or ()), text]


def _duration_ns(text: str) -> int:
    duration = 0 if text == "0" else parse_duration(text)
    if duration is None:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    return duration


def _healthcheck(config: ContainerConfig, text: str) -> None:
    health = HealthConfig()
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        match match[1]:
            case "retries" if match[2].isdigit():
                health.retries = int(match[2])
            case "interval":
                health.interval = _duration_ns(match[2])
            case "timeout":
                health.timeout = _duration_ns(match[2])
            case "start-period":
                health.start_period = _duration_ns(match[2])
            case "start-interval":
                health.start_interval = _duration_ns(match[2])
            case flag:
                raise InvalidParameter(f"Unknown flag: {flag}")
        text = text[match.end() :]
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE" and not rest.strip():
        config.healthcheck = HealthConfig(test=["NONE"])
        return
    if kind.upper() != "CMD" or not rest.strip():
        raise InvalidParameter(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    words = _command(rest.strip())
    shell = words[:2] == ["/bin/sh", "-c"] and not rest.strip().startswith("[")
    health.test = ["CMD-SHELL", rest.strip()] if shell else ["CMD", *words]
    config.healthcheck = health


_HANDLERS: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
    "HEALTHCHECK": _healthcheck,
}
