"""Crash-safe persistence: named records, written through one SQLite writer that groups commits. Reads come from memory."""

from appliance.store.database import Change, Database
from appliance.store.space import room_on

__all__ = ["Change", "Database", "room_on"]
