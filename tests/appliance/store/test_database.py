"""Group commit, order, crashes, and files that are not ours."""

import os
import sqlite3
import sys
from pathlib import Path

import pytest
import trio

from appliance.errors import Unavailable
from appliance.store import Database


async def test_what_was_put_is_loaded_again(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "state.db") as database:
        await database.put("image", "a", b"1")
        await database.put("image", "b", b"2")
        await database.put("volume", "a", b"3")
        await database.put("image", "a", b"4")
        await database.remove("image", "b")
        await database.remove("image", "never there")
        assert database.load("image") == {"a": b"4"}
    async with Database.open(tmp_path / "state.db") as database:
        assert database.load("image") == {"a": b"4"}
        assert database.load("volume") == {"a": b"3"}
        assert database.load("network") == {}


async def test_changes_keep_their_order(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "state.db") as database:
        changes = [database.queue("k", "same", b"%d" % number if number % 3 else None) for number in range(100)]
        for change in reversed(changes):
            await change.wait()
        assert database.load("k") == {}
        await database.put("k", "same", b"last")
        assert database.load("k") == {"same": b"last"}


async def test_changes_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    statements: list[str] = []
    async with Database.open(tmp_path / "state.db") as database:
        database._connection.set_trace_callback(statements.append)
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(database.put, "k", str(number), b"")
        assert len(database.load("k")) == 200
    # The first may go alone; all that came while the writer was busy go together.
    assert 1 <= statements.count("COMMIT") <= 3


async def test_a_cancelled_caller_waits_until_memory_and_disk_agree(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "state.db") as database:
        with trio.CancelScope() as scope:
            scope.cancel()
            await database.put("k", "a", b"1")
        assert database.load("k") == {"a": b"1"}


async def test_an_error_of_the_disk_reaches_every_caller_of_the_batch(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "state.db") as database:
        database._connection.execute("PRAGMA query_only=ON")
        changes = [database.queue("k", str(number), b"") for number in range(3)]
        for change in changes:
            with pytest.raises(Unavailable, match="cannot write state: attempt to write a readonly database"):
                await change.wait()
        database._connection.execute("PRAGMA query_only=OFF")
        # The writer goes on.
        await database.put("k", "a", b"1")
        assert database.load("k") == {"a": b"1"}


_KILLED = """
import os, sys, trio
from pathlib import Path
from appliance.store import Database

async def main() -> None:
    async with Database.open(Path(sys.argv[1])) as database:
        await database.put("k", "on disk", b"1")
        database.queue("k", "queued", b"2")
        os._exit(9)

trio.run(main)
"""


async def test_a_crash_between_queue_and_commit(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    ended = await trio.run_process([sys.executable, "-c", _KILLED, str(path)], env=environment, check=False)
    assert ended.returncode == 9
    async with Database.open(path) as database:
        # Every write that was answered is on disk; other writes may be missing.
        assert database.load("k") == {"on disk": b"1"}
        await database.put("k", "queued", b"3")
        assert database.load("k") == {"on disk": b"1", "queued": b"3"}


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
async def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(Unavailable, match=r"state\.db: cannot open the database: "):
        async with Database.open(path):
            raise AssertionError
    assert path.read_bytes() == content


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"none/state\.db: cannot open the database: unable to open"):
        async with Database.open(tmp_path / "none/state.db"):
            raise AssertionError


async def test_the_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with Database.open(path) as database:
        await database.put("k", "a", b"1")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=7")
    with pytest.raises(Unavailable, match=r"a newer version of vch wrote this database \(format 7, known: 0\)"):
        async with Database.open(path):
            raise AssertionError
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM record").fetchall() == [(b"1",)]


async def test_the_rows_of_version_0_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE record (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        connection.execute("INSERT INTO record VALUES ('image', 'x', ?)", (b"{}",))
    async with Database.open(path) as database:
        assert database.load("image") == {"x": b"{}"}
