"""Parsers and checks of single values: sizes, hosts, access rules, volume stores. All of them raise InvalidParameter."""

import ipaddress
import re
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from appliance.errors import InvalidParameter
from appliance.roles import ROLE_NAMES, Role

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SMALLEST_VM_MEMORY, _LARGEST_VM_MEMORY = 64, 1 << 20
_LARGEST_POOL = 1000
# Less than this is not enough for buildkitd, which takes some 120 MiB, and a RUN beside it.
_SMALLEST_BUILDER_MEMORY = 512
_SMALLEST_BUILDER_DISK = 1 << 30
_LONGEST_SECONDS = 365 * 86400
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
# setrlimit(2), as docker/go-units names them (ulimit.go).
_ULIMITS = re.compile("core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack")
# QEMU's machine type `pc` has no more.
MOST_VM_CPUS = 255


@dataclass(frozen=True, slots=True)
class Rule:
    """An access rule of `--tls-allow`: clients whose certificate has `value` as its CN or OU (`key`) have this role."""

    role: Role
    key: str
    value: str

    def fits(self, common_name: str, units: Collection[str]) -> bool:
        """Whether the rule applies to a certificate with this CN and these OUs."""
        return self.value == common_name if self.key == "CN" else self.value in units


def parse_rule(text: str) -> Rule:
    """An access rule from its text, for example `read:OU=auditors`."""
    found = re.fullmatch(r"([a-z]+):(CN|OU)=(.+)", text)
    if found is None or found[1] not in ROLE_NAMES:
        raise InvalidParameter(
            f"invalid access rule '{text}': use ROLE:CN=NAME or ROLE:OU=UNIT; the roles are {', '.join(ROLE_NAMES)}"
        )
    return Rule(Role(found[1]), found[2], found[3])


def parse_volume_store(text: str) -> tuple[str, str]:
    """The name of a volume store, and its datastore or URL."""
    found = re.fullmatch(r"([a-zA-Z0-9][a-zA-Z0-9_.-]*)=(.+)", text)
    if found is None:
        raise InvalidParameter(f"invalid volume store '{text}': use NAME=DATASTORE or NAME=nfs://SERVER/PATH")
    return found[1], found[2]


def parse_size(text: str) -> int:
    """Bytes, as RAMInBytes of docker/go-units reads them: 512, 40m, 10g, 1.5GiB."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(?:i?b)?", text.lower())
    if match is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True, slots=True)
class UlimitText:
    """A ulimit as `--default-ulimit` and `docker run --ulimit` have it; -1: unlimited."""

    name: str
    soft: int
    hard: int


def parse_ulimit(text: str) -> UlimitText:
    """A ulimit from NAME=SOFT[:HARD], with the texts of docker/go-units (ulimit.go)."""
    name, equals, values = text.partition("=")
    if not equals:
        raise InvalidParameter(f"invalid ulimit argument: {text}")
    if not _ULIMITS.fullmatch(name):
        raise InvalidParameter(f"invalid ulimit type: {name}")
    limits = values.split(":")
    if len(limits) > 2:
        raise InvalidParameter(
            f"too many limit value arguments - {values}, can only have up to two, `soft[:hard]`",
        )
    for limit in limits:
        if not re.fullmatch(r"[+-]?[0-9]+", limit) or not -(1 << 63) <= int(limit) < 1 << 63:
            raise InvalidParameter(f'strconv.ParseInt: parsing "{limit}": invalid syntax')
    soft, hard = int(limits[0]), int(limits[-1])
    refusal = "ulimit soft limit must be less than or equal to hard limit"
    if hard != -1 and soft == -1:
        raise InvalidParameter(f"{refusal}: soft: -1 (unlimited), hard: {hard}")
    if hard != -1 and soft > hard:
        raise InvalidParameter(f"{refusal}: {soft} > {hard}")
    return UlimitText(name, soft, hard)


def ulimits_of_object(given: Mapping[str, object]) -> list[str]:
    """The texts of dockerd's `default-ulimits`: {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}, ...}."""
    texts = []
    for key, limit in given.items():
        known = limit if isinstance(limit, dict) else {}
        name, soft, hard = known.get("Name", key), known.get("Soft", 0), known.get("Hard", 0)
        if not known or known.keys() - {"Name", "Soft", "Hard"} or type(soft) is not int or type(hard) is not int:
            raise InvalidParameter(f"invalid ulimit {key}: expected an object with Name, Soft and Hard")
        texts.append(f"{name}={soft}:{hard}")
    return texts


def bracketed(host: str) -> str:
    """The host as a URL has it: an IPv6 address gets brackets."""
    return f"[{host}]" if ":" in host else host


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """The host and port of HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or text.endswith("]"):
        host, port = text, str(default_port)
    return host.strip("[]"), int(port)


def ends_of(text: str) -> tuple[str, str]:
    """The first and last address of FIRST-LAST or of a subnet. ValueError when the text is neither."""
    first, minus, last = text.partition("-")
    if minus:
        return str(ipaddress.ip_address(first)), str(ipaddress.ip_address(last))
    network = ipaddress.ip_network(text)
    return str(network[0]), str(network[-1])


def check_syslog_server(text: str) -> None:
    """A syslog server on the network: udp://HOST[:PORT], tcp://HOST[:PORT] or tcp+tls://HOST[:PORT]."""
    try:
        url = urllib.parse.urlsplit(text)
        # `port` raises ValueError for a port that is not a number between 0 and 65535.
        usable = url.scheme in ("udp", "tcp", "tcp+tls") and bool(url.hostname) and (url.port or 0) >= 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidParameter(f"invalid syslog-address '{text}': use udp, tcp or tcp+tls://HOST[:PORT]")


def check_interface_address(text: str) -> None:
    """An IPv4 address with a prefix length."""
    try:
        ipaddress.IPv4Interface(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def check_subnet(text: str) -> None:
    """An IPv4 or IPv6 subnet; host bits may be set."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def check_address(text: str) -> None:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def check_vm_memory(text: str) -> None:
    """The memory of an appliance's VMs, in MiB."""
    if not text.isdecimal() or not _SMALLEST_VM_MEMORY <= int(text) <= _LARGEST_VM_MEMORY:
        raise InvalidParameter(f"'{text}' is not between {_SMALLEST_VM_MEMORY} and {_LARGEST_VM_MEMORY} MiB")


def check_builder_memory(text: str) -> None:
    """The memory limit of the builder, in MiB."""
    if not text.isdecimal() or not _SMALLEST_BUILDER_MEMORY <= int(text) <= _LARGEST_VM_MEMORY:
        raise InvalidParameter(f"'{text}' is not between {_SMALLEST_BUILDER_MEMORY} and {_LARGEST_VM_MEMORY} MiB")


def parse_builder_disk(text: str) -> int:
    """Bytes of the builder's disk."""
    size = parse_size(text)
    if size < _SMALLEST_BUILDER_DISK:
        raise InvalidParameter(f"'{text}' is too small: the smallest disk of the builder is 1g")
    return size


def parse_seconds(text: str) -> int:
    """Whole seconds from a duration as Go writes it, such as 90s, 10m or 1h30m; a number alone is seconds."""
    found = re.fullmatch(r"[0-9]{1,9}|(?:[0-9]{1,9}[hms])+", text)
    seconds = (
        sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([hms]?)", text)) if found else 0
    )
    if found is None or seconds > _LONGEST_SECONDS:
        raise InvalidParameter(f"'{text}' is not a duration such as 90s, 10m or 1h, of at most a year")
    return seconds


def check_vm_cpus(text: str) -> None:
    """The number of CPUs of an appliance's VMs."""
    if not text.isdecimal() or not 0 < int(text) <= MOST_VM_CPUS:
        raise InvalidParameter(f"'{text}' is not a number of CPUs between 1 and {MOST_VM_CPUS}")


def check_pool(text: str) -> None:
    """The number of VMs in an appliance's pool."""
    if not text.isdecimal() or int(text) > _LARGEST_POOL:
        raise InvalidParameter(f"'{text}' is not a number of VMs between 0 and {_LARGEST_POOL}")


def check_port(text: str) -> None:
    """A TCP port; 0 has a meaning of its own."""
    if not text.isdecimal() or int(text) > 0xFFFF:
        raise InvalidParameter(f"'{text}' is not a port number")


def check_host_name(text: str) -> None:
    """A host name or a domain."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", text, re.I):
        raise InvalidParameter(f"'{text}' is not a host name")
