"""From protobuf messages to the values of `reports.py`."""

from collections.abc import Iterator

from appliance.guest.reports import (
    BlockMetrics,
    BootStep,
    ExitStatus,
    FailureKind,
    InterfaceMetrics,
    Lease,
    Listener,
    Metrics,
    Output,
    OutputRecord,
    Phase,
    ProcessState,
    ProcessTable,
    StartedProcess,
    StartFailure,
)
from protos.tether.v1 import metrics_pb2, network_pb2, process_pb2, sandbox_pb2, stdio_pb2

# Records of one turn of the event loop.
_RECORDS = 256
# Of anything else that a guest lists.
_FEW, _MANY = 256, 8192
# No program writes as much.
_LAST_OFFSET = 1 << 62

# A newer tether may send numbers that this appliance does not know.
_PHASES = {phase.value: phase for phase in Phase}
_FAILURES = {kind.value: kind for kind in FailureKind}


def decode_outputs(message: stdio_pb2.Records) -> Iterator[Output]:
    """The records, some at a time: a hostile guest puts half a million of one byte into a message.

    Each record's bytes are copied once, here: every access to a bytes field of protobuf makes a copy.
    """
    status = decode_exit(message.exit) if message.HasField("exit") else None
    records = message.records
    count = len(records)
    for start in range(0, max(1, count), _RECORDS):
        some = [_record(one) for one in (records if count <= _RECORDS else records[start : start + _RECORDS])]
        yield Output(some, status if start + _RECORDS >= count else None)


def _record(message: stdio_pb2.Record) -> OutputRecord:
    """A guest that lies about stream or offset must not break the log."""
    return OutputRecord(
        message.stream if message.stream in (stdio_pb2.STDOUT, stdio_pb2.STDERR) else stdio_pb2.STDOUT,
        message.time_ns,
        min(message.offset, _LAST_OFFSET),
        message.data,
    )


def decode_exit(message: process_pb2.ExitStatus) -> ExitStatus:
    return ExitStatus(message.code, message.signal, message.oom_killed, message.exited_ns, message.final_offset)


def decode_process(message: process_pb2.ProcessState) -> ProcessState:
    return ProcessState(
        message.id,
        _PHASES.get(message.phase, Phase.RUNNING),
        message.pid,
        message.started_ns,
        message.acknowledged_offset,
        message.written_offset,
        message.join,
        message.terminal,
    )


def decode_started(message: process_pb2.StartResponse) -> StartedProcess:
    return StartedProcess(message.pid, message.started_ns)


def decode_step(message: sandbox_pb2.BootMark) -> BootStep:
    return BootStep(message.name, message.boottime_ns)


def decode_failure(message: process_pb2.StartFailure) -> StartFailure:
    kind = _FAILURES.get(message.kind, FailureKind.OTHER)
    return StartFailure(kind, message.errno, message.subject, message.searched_path)


def decode_table(message: process_pb2.TopResponse) -> ProcessTable:
    return ProcessTable(message.output, frozenset(message.pids))


def decode_leases(message: network_pb2.Leases) -> list[Lease]:
    """The first leases: a guest has one for each NIC."""
    return [
        Lease(one.interface, one.address, one.gateway, tuple(one.dns[:_FEW]), tuple(one.search[:_FEW]))
        for one in message.leases[:_FEW]
    ]


def decode_listeners(message: network_pb2.Listeners) -> list[Listener]:
    """The first listeners: more ports than this are not published anyway."""
    return [Listener(one.protocol, one.port) for one in message.listeners[:_MANY]]


def decode_metrics(message: metrics_pb2.Sample) -> Metrics:
    return Metrics(
        cpu_usage_ns=message.cpu_usage_ns,
        cpu_user_ns=message.cpu_user_ns,
        cpu_system_ns=message.cpu_system_ns,
        throttled_periods=message.throttled_periods,
        throttled_ns=message.throttled_ns,
        system_cpu_ns=message.system_cpu_ns,
        online_cpus=message.online_cpus,
        memory_usage=message.memory_usage,
        memory_limit=message.memory_limit,
        memory_stat=dict(message.memory_stat),
        pids=message.pids,
        pids_limit=message.pids_limit,
        interfaces=tuple(_interface(one) for one in message.interfaces[:_FEW]),
        blocks=tuple(_block(one) for one in message.blocks[:_FEW]),
    )


def _interface(message: metrics_pb2.InterfaceSample) -> InterfaceMetrics:
    return InterfaceMetrics(
        message.name,
        message.rx_bytes,
        message.rx_packets,
        message.rx_errors,
        message.rx_dropped,
        message.tx_bytes,
        message.tx_packets,
        message.tx_errors,
        message.tx_dropped,
    )


def _block(message: metrics_pb2.BlockSample) -> BlockMetrics:
    return BlockMetrics(
        message.major, message.minor, message.read_bytes, message.write_bytes, message.reads, message.writes
    )
