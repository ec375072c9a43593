"""What a restarted vchd has to know of the builder that it finds, and of failed starts."""

import msgspec

from appliance.store import Database

_KIND, _KEY = "builder", "machine"


class MachineRecord(msgspec.Struct):
    """`container` is the ID of the container of the present life, `port` that of its door, `volume` the name of the cache.

    `control` is the TCP port of its buildkitd, 0 when there is only a unix socket.
    `failures` counts the starts since the last good one in which BuildKit did not answer. `set_aside`: a cache was replaced since then.
    """

    container: str = ""
    port: int = 0
    volume: str = ""
    failures: int = 0
    set_aside: bool = False
    control: int = 0


def load_machine_record(database: Database) -> MachineRecord:
    """The stored record, or that of a builder which has never run."""
    stored = database.load(_KIND).get(_KEY)
    return msgspec.json.decode(stored, type=MachineRecord) if stored is not None else MachineRecord()


async def save_machine_record(database: Database, record: MachineRecord) -> None:
    """Store the record; return when it is on disk."""
    await database.put(_KIND, _KEY, msgspec.json.encode(record))
