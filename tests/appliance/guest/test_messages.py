"""What the engine sees of a guest, and the messages that it becomes."""

from pathlib import Path

from appliance.container.times import rfc3339
from appliance.guest import (
    DiskMount,
    ExitStatus,
    FailureKind,
    GuestSetup,
    GuestVolume,
    Interface,
    NetworkConfig,
    OutputRecord,
    OverlayMount,
    Phase,
    PlainMount,
    ProcessSetup,
    Resumption,
    ShareMount,
    StateFile,
)
from appliance.guest.decode import (
    decode_failure,
    decode_leases,
    decode_listeners,
    decode_metrics,
    decode_outputs,
    decode_process,
)
from appliance.guest.encode import encode_process, encode_resumption, encode_setup, renew_clock
from appliance.hypervisor import GuestDisk, ScsiAddress
from appliance.streams.logfile import LogFile
from protos.tether.v1 import filesystem_pb2, metrics_pb2, network_pb2, process_pb2, sandbox_pb2, stdio_pb2


def test_a_setup_becomes_a_configure_request() -> None:
    setup = GuestSetup(
        "c0ffee",
        "box",
        "example",
        mounts=[
            DiskMount("/layers/0", "erofs", GuestDisk(ScsiAddress(0, 1, 2, 3)), ("ro",), ("-O", "x")),
            DiskMount("/upper", "ext4", GuestDisk(ScsiAddress(0, 0, 0), blank=True), (), ("-O", "x")),
            OverlayMount("/root", ["/layers/0"], "/upper"),
            ShareMount("/shares", "tag"),
            PlainMount("/empty", "tmpfs", ("ro",)),
        ],
        volumes=[GuestVolume("/s", "/d", True, False, True, "nfs4", "server:/x", ["vers=4"])],
        network=NetworkConfig([Interface("02:00", "eth0", ["10.0.0.2/24"], ["10.0.0.1"], 1500, 0, True)], b"rules"),
        modules=["tun"],
        files=[StateFile("hosts", b"h")],
    )
    message = encode_setup(setup)
    assert len(message.entropy) == 64
    assert message.wall_clock_ns > 0
    message.ClearField("entropy")
    message.ClearField("wall_clock_ns")
    kinds = filesystem_pb2.Mount
    assert message == sandbox_pb2.ConfigureRequest(
        machine_id="c0ffee",
        hostname="box",
        domainname="example",
        mounts=[
            kinds(
                kind=kinds.DISK,
                target="/layers/0",
                type="erofs",
                options=["ro"],
                disk=filesystem_pb2.Disk(target=1, lun=2, partition=3),
            ),
            kinds(kind=kinds.DISK, target="/upper", type="ext4", disk=filesystem_pb2.Disk(), blank=["-O", "x"]),
            kinds(kind=kinds.OVERLAY, target="/root", lower=["/layers/0"], upper="/upper"),
            kinds(kind=kinds.SHARE, target="/shares", source="tag"),
            kinds(kind=kinds.PLAIN, target="/empty", type="tmpfs", options=["ro"]),
        ],
        volumes=[
            filesystem_pb2.Volume(
                source="/s",
                destination="/d",
                read_only=True,
                make=True,
                type="nfs4",
                device="server:/x",
                options=["vers=4"],
            )
        ],
        network=network_pb2.NetworkConfig(
            interfaces=[
                network_pb2.Interface(
                    mac="02:00",
                    name="eth0",
                    addresses=["10.0.0.2/24"],
                    routes=[network_pb2.Route(gateway="10.0.0.1")],
                    mtu=1500,
                    set_mac=True,
                )
            ],
            filter=b"rules",
        ),
        modules=["tun"],
        files=[sandbox_pb2.StateFile(name="hosts", content=b"h", mode=0o644)],
    )


def test_files_alone_leave_the_clock() -> None:
    message = encode_resumption(Resumption(files=[StateFile("hosts", b"h")]))
    assert message == sandbox_pb2.AwakenRequest(files=[sandbox_pb2.StateFile(name="hosts", content=b"h", mode=0o644)])
    renew_clock(message)
    assert message.wall_clock_ns > 0
    assert len(message.entropy) == 64


def test_a_process_becomes_a_create_request() -> None:
    process = ProcessSetup("e", b"{}", "c", stdin=True, spool_bytes=5, drop_oldest=True, rows=2, columns=3)
    assert encode_process(process) == process_pb2.CreateRequest(
        id="e", spec=b"{}", join="c", stdin=True, spool_bytes=5, drop_oldest=True, rows=2, columns=3
    )


def test_output_keeps_offsets_and_the_exit() -> None:
    message = stdio_pb2.Records(
        records=[stdio_pb2.Record(stream=stdio_pb2.STDERR, time_ns=7, offset=10, data=b"abc")],
        exit=process_pb2.ExitStatus(signal=9, oom_killed=True, final_offset=13),
    )
    (output,) = decode_outputs(message)
    assert output.records == [OutputRecord(2, 7, 10, b"abc")]
    assert output.records[0].end == 13
    assert output.exit == ExitStatus(0, 9, True, 0, 13)
    (empty,) = decode_outputs(stdio_pb2.Records())
    assert (empty.records, empty.exit) == ([], None)


def test_many_records_come_in_turns() -> None:
    """A message of 4 MiB holds half a million records of a byte."""
    records = [stdio_pb2.Record(stream=stdio_pb2.STDOUT, offset=number, data=b"x") for number in range(1000)]
    outputs = list(decode_outputs(stdio_pb2.Records(records=records, exit=process_pb2.ExitStatus(code=3))))
    assert [len(output.records) for output in outputs] == [256, 256, 256, 232]
    assert [record.offset for output in outputs for record in output.records] == list(range(1000))
    assert [output.exit.code for output in outputs if output.exit is not None] == [3]
    assert outputs[-1].exit is not None


def test_a_record_that_lies_can_be_logged_and_shown(tmp_path: Path) -> None:
    huge = (1 << 64) - 1
    lie = stdio_pb2.Record(time_ns=huge, offset=huge, data=b"x")
    lie.MergeFromString(b"\x08\x63")  # stream 99
    (output,) = decode_outputs(stdio_pb2.Records(records=[lie]))
    (record,) = output.records
    assert record.stream == 1
    log = LogFile(tmp_path, framed=True)
    log.append(record.stream, record.time_ns, record.end, record.data)
    assert rfc3339(log.entry(0).time_ns) == "2554-07-21T23:34:33.709551615Z"
    log.close()


def test_numbers_of_a_newer_tether_are_taken_for_the_usual_case() -> None:
    assert decode_process(process_pb2.ProcessState(id="a", phase=process_pb2.ProcessState.PAUSED)).phase is Phase.PAUSED
    newer = process_pb2.ProcessState.FromString(b"\x10\x63")
    assert decode_process(newer).phase is Phase.RUNNING
    failure = decode_failure(process_pb2.StartFailure.FromString(b"\x08\x63\x10\x02"))
    assert (failure.kind, failure.errno) == (FailureKind.OTHER, 2)


def test_what_a_guest_lists_is_bounded() -> None:
    """100 000 invalid leases were 100 000 warnings in one turn of the event loop."""
    lease = network_pb2.Lease(interface="eth0", dns=["x"] * 1000, search=["x"] * 1000)
    leases = decode_leases(network_pb2.Leases(leases=[lease] * 1000))
    assert (len(leases), len(leases[0].dns), len(leases[0].search)) == (256, 256, 256)
    sample = metrics_pb2.Sample(
        interfaces=[metrics_pb2.InterfaceSample()] * 1000, blocks=[metrics_pb2.BlockSample()] * 1000
    )
    assert (len(decode_metrics(sample).interfaces), len(decode_metrics(sample).blocks)) == (256, 256)
    assert len(decode_listeners(network_pb2.Listeners(listeners=[network_pb2.Listener(port=1)] * 10_000))) == 8192
