"""The oracles for floods find what they are made for."""

import gc
import os
import threading
import time

import trio

from tests.steps import cpu_of_steps, cpu_seconds, in_fresh_process, peak_rss


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def busy() -> None:
    await trio.lowlevel.checkpoint()
    spin(0.03)
    await trio.lowlevel.checkpoint()


async def test_the_longest_step_of_all_tasks_and_where_it_ended() -> None:
    with cpu_of_steps() as steps:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            for _ in range(5):
                spin(0.002)
                await trio.lowlevel.checkpoint()
    assert 0.03 <= steps.longest < 0.045, steps
    assert steps.task.endswith("busy")
    assert any("test_steps.py" in place and place.endswith(" busy") for place in steps.where)
    assert steps.count >= 8


async def test_waiting_and_other_threads_cost_the_loop_nothing() -> None:
    with cpu_of_steps() as steps:
        await trio.sleep(0.02)
        await trio.to_thread.run_sync(spin, 0.03)
    assert steps.longest < 0.02, steps


async def test_a_step_that_never_waits_counts() -> None:
    with cpu_of_steps() as steps:
        spin(0.02)
    assert steps.longest >= 0.02


async def test_a_collection_of_garbage_does_not_count() -> None:
    garbage = [[None] for _ in range(300_000)]
    started = time.thread_time()
    gc.collect()
    taken = time.thread_time() - started
    with cpu_of_steps() as steps:
        gc.collect()
    assert steps.longest < taken / 2
    del garbage


def test_cpu_time_of_a_process() -> None:
    before = cpu_seconds(os.getpid())
    thread = threading.Thread(target=spin, args=(0.02,))
    thread.start()
    spin(0.02)
    assert cpu_seconds(os.getpid()) - before >= 0.02
    thread.join()


def allocate(size: str) -> int:
    return len(bytes(int(size)) + b"1")


def test_the_memory_of_a_scenario() -> None:
    run = in_fresh_process(allocate, str(64 << 20))
    assert run.result == (64 << 20) + 1
    assert 60 << 20 < run.grown < 160 << 20
    assert run.grown < run.peak
    assert peak_rss() > 10 << 20
