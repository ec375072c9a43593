"""Formats lines of a log as syslog messages (RFC 3164, RFC 5424), as Docker's driver does (moby daemon/logger/syslog)."""

import os
import re
import time
import urllib.parse
from dataclasses import dataclass

from appliance.errors import InvalidParameter

_FACILITIES = (
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
)
_LOCAL = {f"local{number}": 16 + number for number in range(8)}
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
# The fields that a tag may contain, as {{.Name}}.
TAG_VALUES = (
    *("ID", "FullID", "Name", "ImageName", "ImageID", "ImageFullID", "DaemonName", "Command", "Hostname"),
    *("ContainerID", "ContainerName", "ContainerImageID", "ContainerImageName", "ContainerEntrypoint"),
)
ERROR, WARNING, INFORMATIONAL, DEBUG = 3, 4, 6, 7
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Address:
    """A syslog server. `kind`: udp, tcp, tcp+tls, unix or unixgram. `path` is a unix socket's; the others have `host` and `port`."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 514


def parse_address(text: str) -> Address:
    """Parse proto://address; "" is the local syslog socket. InvalidParameter with Docker's text."""
    if not text:
        return Address("unixgram", "/dev/log")
    url = urllib.parse.urlsplit(text)
    if url.scheme in ("unix", "unixgram"):
        return Address(url.scheme, url.path)
    if url.scheme not in ("udp", "tcp", "tcp+tls") or not url.hostname:
        raise InvalidParameter(f"syslog-address should be in form proto://address, got {text}")
    try:
        return Address(url.scheme, host=url.hostname, port=url.port or (6514 if url.scheme == "tcp+tls" else 514))
    except ValueError as error:
        raise InvalidParameter(f"syslog-address: {error}") from error


def parse_facility(text: str) -> int:
    """A facility by name or number; "" is daemon. InvalidParameter with Docker's text."""
    name = text or "daemon"
    if name in _FACILITIES:
        return _FACILITIES.index(name)
    if name in _LOCAL:
        return _LOCAL[name]
    if name.isdigit() and int(name) <= 23:
        return int(name)
    raise InvalidParameter("invalid syslog facility")


def parse_format(text: str) -> str:
    """Check the name of a format. InvalidParameter with Docker's text."""
    if text not in _FORMATS:
        raise InvalidParameter("Invalid syslog format")
    return text


def fill_tag(template: str, values: dict[str, str]) -> str:
    """Fill Docker's log tag, a template with {{.ID}}, {{.Name}}... InvalidParameter for an unknown field."""

    def value(match: "re.Match[str]") -> str:
        if match[1] not in values:
            raise InvalidParameter(f"the log tag's {match[0]} is not supported")
        return values[match[1]]

    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", value, template)


@dataclass(frozen=True, slots=True)
class Formatter:
    """Formats lines as messages. `hostname` is that of the appliance."""

    facility: int
    format: str
    tag: str
    hostname: str

    def message(self, severity: int, time_ns: int, line: bytes) -> bytes:
        """One message, with a newline at its end. `time_ns`: unix time in ns."""
        priority = self.facility * 8 + severity
        seconds, nanos = divmod(time_ns, 10**9)
        when, pid = time.gmtime(seconds), os.getpid()
        if self.format.startswith("rfc5424"):
            fraction = f".{nanos // 1000:06d}" if self.format.endswith("micro") else ""
            stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', when)}{fraction}Z"
            head = f"<{priority}>1 {stamp} {self.hostname} {self.tag} {pid} {self.tag} - "
        else:
            stamp = f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2d} {time.strftime('%H:%M:%S', when)}"
            host = f"{self.hostname} " if self.format == "rfc3164" else ""
            head = f"<{priority}>{stamp} {host}{self.tag}[{pid}]: "
        return head.encode() + line.rstrip(b"\n") + b"\n"
