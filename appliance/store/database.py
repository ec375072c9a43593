"""Records by (kind, key), as bytes. SQLite in WAL mode with synchronous=FULL; one writer, many changes a commit."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.errors import Unavailable

# SQLite's user_version. A vch that changes what the rows mean raises it, so that an older vch does not misread them.
_VERSION = 0
_SCHEMA = "CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"


@dataclass(slots=True)
class Change:
    """A change on its way to the disk. `value` None removes the record."""

    kind: str
    key: str
    value: bytes | None
    done: trio.Event
    error: Exception | None = None

    async def wait(self) -> None:
        """Return when the change is on disk. Unavailable when it could not be written.

        A cancelled caller waits too. The writer does not take a change back, so memory and disk must agree afterwards.
        """
        with trio.CancelScope(shield=True):
            await self.done.wait()
        if self.error is not None:
            raise Unavailable(f"cannot write state: {self.error}") from self.error


class Database:
    """`put` and `remove` return when the change is on disk. Changes that wait at the same time share one commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._waiting: list[Change] = []
        self._news = trio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Database"]:
        """Open or create the file. Unavailable when it is damaged, or when a newer version of vch wrote it."""
        connection = _connect(path)
        try:
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
        """All records of a kind by their keys. Reads the disk, so only for start-up."""
        return dict(self._connection.execute("SELECT key, value FROM record WHERE kind = ?", (kind,)))

    def queue(self, kind: str, key: str, value: bytes | None) -> Change:
        """Write a record (None: remove it), after all changes that were queued before. Does not wait."""
        change = Change(kind, key, value, trio.Event())
        self._waiting.append(change)
        self._news.set()
        return change

    async def put(self, kind: str, key: str, value: bytes) -> None:
        """Write a record; return when it is on disk."""
        await self.queue(kind, key, value).wait()

    async def remove(self, kind: str, key: str) -> None:
        """Remove a record; return when that is on disk."""
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


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file and check its format. Unavailable says what is wrong."""
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    except sqlite3.Error as error:
        raise Unavailable(f"{path}: cannot open the database: {error}") from error
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        ((version,),) = connection.execute("PRAGMA user_version")
        if version > _VERSION:
            raise Unavailable(
                f"{path}: a newer version of vch wrote this database (format {version}, known: {_VERSION})"
            )
        connection.execute(_SCHEMA)
    except sqlite3.Error as error:
        connection.close()
        raise Unavailable(f"{path}: cannot open the database: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection
