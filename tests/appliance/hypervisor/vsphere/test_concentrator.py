"""The serial port concentrator, with hosts that behave and hosts that do not."""

import ipaddress
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.concentrator import Concentrator
from appliance.hypervisor.vsphere.serial_port import SerialPort as Port
from appliance.hypervisor.vsphere.telnet import DO, IAC, SB, VMWARE, WILL
from tests.live.certificates import self_signed
from tests.live.vsphere.serialport import (
    ABORT,
    BEGIN,
    COMPLETE,
    GOAHEAD,
    KNOWN,
    NOTNOW,
    PEER,
    PEER_OK,
    VC_UUID,
    WILL_PROXY,
    WONT_PROXY,
    SerialPort,
    connected,
)
from tether.transport import Line, LineClosed

_UUID = "503c5d1c-0f6a-8c5b-1f2e-0123456789ab"
# As ESXi writes it.
_SPELT = "50 3c 5d 1c 0f 6a 8c 5b-1f 2e 01 23 45 67 89 ab"
_URI = "vch:a-secret"


@asynccontextmanager
async def _opened(
    allowed: list[str] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Concentrator, int]]:
    async with trio.open_nursery() as nursery:
        concentrator = Concentrator(nursery, [ipaddress.ip_network(one) for one in allowed or ()], tls)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(concentrator.serve, listener)
        yield concentrator, listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _read(line: Line, length: int) -> bytes:
    found = b""
    with trio.fail_after(30):
        while len(found) < length:
            found += await line.read()
    return found


async def _write(line: Line, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[line.try_write(view) :]
        if view:
            await line.wait_writable()


async def _identified(serial: SerialPort) -> None:
    await serial.identify(_SPELT, _URI)
    await serial.hear(WILL_PROXY)


async def test_bytes_go_both_ways_unchanged() -> None:
    data = random.Random(1).randbytes(3 << 20)
    async with _opened() as (concentrator, number):
        port = concentrator.expect(_UUID, _URI)
        line = port.dial()
        async with connected(number) as serial, trio.open_nursery() as nursery:
            await _identified(serial)
            nursery.start_soon(serial.write, data)
            assert await _read(line, len(data)) == data
            nursery.start_soon(_write, line, data)
            assert await serial.hear_data(len(data)) == data
        line.close()


async def test_bytes_wait_until_a_host_connects() -> None:
    async with _opened() as (concentrator, number):
        line = concentrator.expect(_UUID, _URI).dial()
        assert line.try_write(b"early") == 5
        async with connected(number) as serial:
            await _identified(serial)
            assert await serial.hear_data(5) == b"early"
        line.close()


async def test_a_second_line_takes_over() -> None:
    async with _opened() as (concentrator, number):
        port = concentrator.expect(_UUID, _URI)
        first = port.dial()
        async with connected(number) as serial:
            await _identified(serial)
            second = port.dial()
            with pytest.raises(LineClosed):
                await first.read()
            await serial.write(b"x")
            assert await _read(second, 1) == b"x"
        first.close()
        second.close()
        concentrator.forget(port)
        with pytest.raises(HypervisorError):
            port.dial()


async def test_a_host_that_comes_back() -> None:
    async with _opened() as (concentrator, number):
        line = concentrator.expect(_UUID, _URI).dial()
        async with connected(number) as serial:
            await _identified(serial)
            await serial.write(b"one")
            assert await _read(line, 3) == b"one"
        async with connected(number) as serial:
            await _identified(serial)
            await serial.write(b"two")
            assert await _read(line, 3) == b"two"
        line.close()


@pytest.mark.parametrize(
    ("uuid", "uri"), [("ffffffff-0f6a-8c5b-1f2e-0123456789ab", _URI), (_UUID, "vch:another"), (_UUID, ""), ("", _URI)]
)
async def test_a_vm_that_is_not_expected_receives_nothing(uuid: str, uri: str, autojump_clock: MockClock) -> None:
    async with _opened() as (concentrator, number):
        line = concentrator.expect(_UUID, _URI).dial()
        line.try_write(b"secret")
        async with connected(number) as serial:
            await serial.write(b"let me in")
            await serial.identify(uuid, uri)
            await serial.hear_end()
            assert not serial.data
            assert WILL_PROXY not in [code for code, _ in serial.said]
        with trio.move_on_after(0.2) as nothing:
            await line.read()
        assert nothing.cancelled_caught
        line.close()


async def _moved(port: Port, line: Line, source: SerialPort, number: int, end: int, by_target: bool) -> None:
    sequence = os.urandom(4)
    await source.say(BEGIN, sequence)
    said = await source.hear(GOAHEAD)
    assert said.startswith(sequence)
    async with connected(number) as target:
        await target.identify(_UUID, _URI)
        await target.say(PEER, said)
        assert await target.hear(PEER_OK) == said
        # The machine still runs on the source host.
        await source.write(b"still here")
        assert await _read(line, 10) == b"still here"
        # Bytes for the machine wait from now on for the end of the move.
        await _write(line, b"held")
        await trio.sleep(0.1)
        assert not source.data
        assert not target.data
        await (target if by_target else source).say(end)
        after, before = (target, source) if end == COMPLETE else (source, target)
        assert await after.hear_data(4) == b"held"
        await after.write(b"from here")
        assert await _read(line, 9) == b"from here"
        assert not before.data
        if end == ABORT:
            await target.hear_end()


@pytest.mark.parametrize("by_target", [False, True])
@pytest.mark.parametrize("end", [COMPLETE, ABORT])
async def test_a_machine_moves(end: int, by_target: bool) -> None:
    async with _opened() as (concentrator, number):
        port = concentrator.expect(_UUID, _URI)
        line = port.dial()
        async with connected(number) as source:
            await _identified(source)
            await _moved(port, line, source, number, end, by_target)
        line.close()


async def test_a_forged_move_is_refused() -> None:
    async with _opened() as (concentrator, number):
        line = concentrator.expect(_UUID, _URI).dial()
        async with connected(number) as source, connected(number) as thief:
            await thief.say(KNOWN, b"")
            await thief.say(BEGIN, b"1234")
            assert await thief.hear(NOTNOW) == b"1234"
            await _identified(source)
            await source.say(BEGIN, b"1234")
            said = await source.hear(GOAHEAD)
            await thief.say(PEER, said[:-1] + bytes((said[-1] ^ 1,)))
            await thief.hear_end()
            await source.write(b"mine")
            assert await _read(line, 4) == b"mine"
        line.close()


async def test_hostile_peers(autojump_clock: MockClock) -> None:
    floods = [
        bytes((IAC, DO, 99)) * 50_000,
        bytes((IAC, SB, VMWARE)) + bytes(1 << 20),
        os.urandom(1 << 16),
        b"x" * (1 << 20),
        bytes((IAC,)),
        bytes((IAC, SB)),
        bytes((IAC, WILL)),
        b"",
    ]
    async with _opened() as (concentrator, number):
        line = concentrator.expect(_UUID, _URI).dial()
        for flood in floods:
            async with connected(number) as serial:
                with trio.move_on_after(5):
                    try:
                        await serial.send(flood)
                    except trio.BrokenResourceError:
                        pass
                # The concentrator closes a connection that does not identify its VM within ten seconds.
                await serial.hear_end()
        async with connected(number) as serial:
            await _identified(serial)
            await serial.write(b"fine")
            assert await _read(line, 4) == b"fine"
        line.close()


async def test_only_hosts_in_the_allowed_subnets_connect() -> None:
    async with _opened(["192.0.2.0/24"]) as (concentrator, number):
        concentrator.expect(_UUID, _URI)
        async with connected(number) as serial:
            await serial.hear_end()
    async with _opened(["127.0.0.0/8"]) as (concentrator, number):
        concentrator.expect(_UUID, _URI)
        async with connected(number) as serial:
            await _identified(serial)


async def test_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    async with _opened(tls=server) as (concentrator, number):
        line = concentrator.expect(_UUID, _URI).dial()
        async with connected(number, ssl.create_default_context(cafile=certificate)) as serial:
            await _identified(serial)
            await serial.write(b"sealed")
            assert await _read(line, 6) == b"sealed"
        async with connected(number) as plain:
            await plain.send(b"hello\r\n" * 100)
            await plain.hear_end()
        line.close()


async def test_two_machines_of_one_uuid() -> None:
    async with _opened() as (concentrator, _):
        concentrator.expect(_UUID, _URI)
        with pytest.raises(HypervisorError, match="already"):
            concentrator.expect(_SPELT, _URI)


def test_messages_have_the_numbers_of_vmwares_table() -> None:
    assert (VMWARE, KNOWN, BEGIN, GOAHEAD, PEER, PEER_OK, COMPLETE, ABORT, VC_UUID, WONT_PROXY) == (
        232,
        0,
        40,
        41,
        44,
        45,
        46,
        48,
        80,
        73,
    )


async def test_a_clone_speaks_before_it_is_known(autojump_clock: MockClock) -> None:
    """vCenter chooses the clone's UUID. The host may connect before vCenter's answer tells us the UUID."""
    async with _opened() as (concentrator, number):
        with concentrator.expecting_clones(_URI):
            async with connected(number) as serial:
                await serial.identify(_SPELT, _URI)
                await trio.sleep(1)
                concentrator.expect("00000000-0000-0000-0000-000000000001", _URI)
                line = concentrator.expect(_UUID, _URI).dial()
                await serial.hear(WILL_PROXY)
                await serial.write(b"here")
                assert await _read(line, 4) == b"here"
            # A UUID that no machine has.
            async with connected(number) as serial:
                await serial.identify("503c5d1c-0f6a-8c5b-1f2e-ffffffffffff", _URI)
                await serial.hear_end()
            async with connected(number) as serial:
                await serial.identify("503c5d1c-0f6a-8c5b-1f2e-ffffffffffff", f"{_URI}s")
                await serial.hear(WONT_PROXY)
        async with connected(number) as serial:
            await serial.identify("503c5d1c-0f6a-8c5b-1f2e-ffffffffffff", _URI)
            await serial.hear(WONT_PROXY)
        line.close()
