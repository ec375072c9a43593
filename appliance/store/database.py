"""Records by (kind, key), as bytes. SQLite in WAL mode with synchronous=FULL; one writer, many changes a commit."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.errors import Unavailable

_SCHEMA = "CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"


@dataclass(slots=True)
class Change:
    """One on its way to the disk. `wait` returns when it is there."""

    kind: str
    key: str
    value: bytes | None
    done: trio.Event
    error: Exception | None = None

    async def wait(self) -> None:
        # Once queued it will be written: a caller that is cancelled must not leave memory and disk at odds.
        with trio.CancelScope(shield=True):
            await self.done.wait()
        if self.error is not None:
            raise Unavailable(f"cannot write state: {self.error}") from self.error


class Database:
    """`put` and `remove` return when the change is on disk; those that wait together share a commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._waiting: list[Change] = []
        self._news = trio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Database"]:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
            database = cls(connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database._write_loop)
                try:
                    yield database
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            connection.close()

    def load(self, kind: str) -> dict[str, bytes]:
        """All records of a kind; for start-up."""
        return dict(self._connection.execute("SELECT key, value FROM record WHERE kind = ?", (kind,)))

    def queue(self, kind: str, key: str, value: bytes | None) -> Change:
        """Have a record written (None: removed) after all that was queued before."""
        change = Change(kind, key, value, trio.Event())
        self._waiting.append(change)
        self._news.set()
        return change

    async def put(self, kind: str, key: str, value: bytes) -> None:
        await self.queue(kind, key, value).wait()

    async def remove(self, kind: str, key: str) -> None:
        await self.queue(kind, key, None).wait()

    async def _write_loop(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            batch, self._waiting = self._waiting, []
            error: Exception | None = None
            with trio.CancelScope(shield=True):
                try:
                    await trio.to_thread.run_sync(self._commit, batch)
                except sqlite3.Error as caught:
                    error = caught
            for change in batch:
                change.error = error
                change.done.set()

    def _commit(self, batch: list[Change]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for change in batch:
                if change.value is None:
                    self._connection.execute("DELETE FROM record WHERE kind = ? AND key = ?", (change.kind, change.key))
                else:
                    self._connection.execute(
                        "REPLACE INTO record VALUES (?, ?, ?)", (change.kind, change.key, change.value)
                    )
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            self._connection.execute("ROLLBACK")
            raise
