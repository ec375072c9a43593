"""Stores the records of execs in the database."""

import msgspec

from appliance.container.exec_config import ExecRecord
from appliance.container.go_json import decode_stored
from appliance.store import Change, Database

_KIND = "exec"


class ExecRepository:
    """`unclaimed` are the records of an earlier daemon, by their ids, until `take` returns them or `drop_unclaimed` removes them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.unclaimed = {key: decode_stored(value, ExecRecord) for key, value in database.load(_KIND).items()}

    def queue(self, exec_id: str, record: ExecRecord) -> Change:
        """Queue the record for the database; wait on the result until the record is on disk."""
        return self._database.queue(_KIND, exec_id, msgspec.json.encode(record))

    def remove(self, exec_id: str) -> None:
        """Remove a record. Does not wait."""
        self._database.queue(_KIND, exec_id, None)

    def take(self, container_id: str) -> dict[str, ExecRecord]:
        """The unclaimed records of a container."""
        found = {key: record for key, record in self.unclaimed.items() if record.container == container_id}
        for key in found:
            del self.unclaimed[key]
        return found

    def drop_unclaimed(self) -> None:
        """Remove the records of containers that do not run any more."""
        for key in self.unclaimed:
            self.remove(key)
        self.unclaimed.clear()
