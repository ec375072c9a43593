"""What a guest reports: output, exits, process states, metrics, leases. Plain values, made from protobuf by `decode.py`."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: by itself with `code`, or by `signal` (0: by itself).

    `final_offset` is one past the last byte of its output; `exited_ns` is the guest's wall clock, unix ns.
    """

    code: int = 0
    signal: int = 0
    oom_killed: bool = False
    exited_ns: int = 0
    final_offset: int = 0


class OutputRecord(msgspec.Struct, frozen=True, gc=False):
    """Bytes of one stream (1 stdout, 2 stderr). `offset` counts the bytes of both streams before these; `time_ns` is unix ns.

    A Struct, because there is one for each piece of output: it costs a fifth of what a frozen dataclass does.
    """

    stream: int
    time_ns: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset one past the last byte."""
        return self.offset + len(self.data)


class Output(msgspec.Struct, frozen=True, gc=False):
    """Records that arrived together. `exit` comes with the last of them, once the process has ended."""

    records: list[OutputRecord]
    exit: ExitStatus | None = None


class Phase(enum.Enum):
    CREATED = 0
    RUNNING = 1
    EXITED = 2
    PAUSED = 3


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process that the guest knows. `pid` is 0 before it started; `join` names the process whose namespaces it entered.

    It has written output up to `written_offset`. The appliance has acknowledged it up to `acknowledged_offset`.
    """

    id: str
    phase: Phase
    pid: int
    started_ns: int
    acknowledged_offset: int
    written_offset: int
    join: str
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """`pid` in the guest's root namespace; `started_ns` is the guest's wall clock at exec, unix ns."""

    pid: int
    started_ns: int


@dataclass(frozen=True, slots=True)
class BootStep:
    """A step of a launch; `boottime_ns` is the guest's CLOCK_BOOTTIME at its end."""

    name: str
    boottime_ns: int


class FailureKind(enum.Enum):
    OTHER = 0
    NOT_FOUND = 1
    PERMISSION = 2
    NO_SUCH_USER = 3
    NO_SUCH_GROUP = 4
    BAD_WORKING_DIRECTORY = 5
    SETUP = 6


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a process did not start: the errno, the program, user or path concerned, whether $PATH was searched."""

    kind: FailureKind
    errno: int = 0
    subject: str = ""
    searched_path: bool = False


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """The output of ps(1) for the whole guest, and the pids in it that are the container's."""

    output: bytes
    pids: frozenset[int]


@dataclass(frozen=True, slots=True)
class InterfaceMetrics:
    """Counters of a NIC since it appeared."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class BlockMetrics:
    """Bytes and operations of a block device, by the container's cgroup."""

    major: int
    minor: int
    read_bytes: int
    write_bytes: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """A sample of the container's cgroup and of its guest. Times are ns, memory is bytes, `pids_limit` 0 means no limit."""

    cpu_usage_ns: int
    cpu_user_ns: int
    cpu_system_ns: int
    throttled_periods: int
    throttled_ns: int
    system_cpu_ns: int
    online_cpus: int
    memory_usage: int
    memory_limit: int
    memory_stat: Mapping[str, int]
    pids: int
    pids_limit: int
    interfaces: Sequence[InterfaceMetrics]
    blocks: Sequence[BlockMetrics]


@dataclass(frozen=True, slots=True)
class Lease:
    """What a DHCP server gave an interface: an address as CIDR, a gateway or "", DNS servers, search domains. Not checked yet."""

    interface: str
    address: str
    gateway: str
    dns: Sequence[str]
    search: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that the guest listens at; `protocol` is tcp or udp. Not checked yet."""

    protocol: str
    port: int
