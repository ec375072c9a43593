"""The spool is bounded, delivers each byte once, and wakes every reader that waits."""

import os

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tether.agent.stdio import STDERR, STDOUT, Spool, pump_out


async def test_both_streams_wait_for_room_and_both_are_woken() -> None:
    spool = Spool(1000, False)
    spool.put(STDOUT, bytes(2000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.wait_room)
        nursery.start_soon(spool.wait_room)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            spool.acknowledge(2000)
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_a_full_spool_blocks_the_writer() -> None:
    spool = Spool(100_000, False)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump_out, reading, STDERR, spool)
        fed = 0
        while True:
            try:
                fed += os.write(writing, bytes(50_000))
            except BlockingIOError:
                await trio.testing.wait_all_tasks_blocked()
                try:
                    fed += os.write(writing, bytes(1000))
                except BlockingIOError:
                    break
        assert spool.written <= fed <= 100_000 + (512 << 10)
        taken = 0
        os.close(writing)
        with trio.fail_after(5):
            while taken < fed:
                for record in spool.read(taken):
                    assert record.offset == taken
                    taken += len(record.data)
                spool.acknowledge(taken)
                await trio.testing.wait_all_tasks_blocked()
    assert taken == fed == spool.written


async def test_a_program_that_floods_leaves_turns_to_other_tasks_of_the_guest() -> None:
    """A spool that drops its oldest records always has room, and /dev/zero always has data."""
    spool = Spool(100_000, True)
    turns = 0
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump_out, os.open("/dev/zero", os.O_RDONLY), STDOUT, spool)
            while spool.written < 2 << 20:
                turns += 1
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert turns >= 4


def test_a_batch_of_single_bytes_is_bounded_as_it_is_sent() -> None:
    """64 MiB of `max-buffer-size` hold 500 000 records of a byte, more than one message may have."""
    spool = Spool(64 << 20, False)
    for _ in range(10_000):
        spool.put(STDOUT, b"x")
    assert sum(record.ByteSize() + 4 for record in spool.read(0)) < 512 << 10


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=50)), max_size=30), st.data()
)
def test_reading_from_any_offset_gives_the_rest(records: list[tuple[int, bytes]], data: st.DataObject) -> None:
    spool = Spool(1 << 20, False)
    for stream, content in records:
        spool.put(stream, content)  # type: ignore[arg-type]
    whole = b"".join(content for _, content in records)
    acknowledged = data.draw(st.integers(0, len(whole)))
    spool.acknowledge(acknowledged)
    offset = data.draw(st.integers(acknowledged, len(whole)))
    got = b""
    while batch := spool.read(offset + len(got)):
        for record in batch:
            assert record.offset == offset + len(got)
            got += record.data
    assert got == whole[offset:]


def test_drop_oldest_says_how_much_was_lost() -> None:
    spool = Spool(1000, True)
    for number in range(50):
        spool.put(STDOUT, bytes([number]) * 100)
    kept = spool.read(0)
    assert kept[-1].data[0] == 49
    assert sum(record.dropped for record in kept) + sum(len(record.data) for record in kept) == 5000
