"""Crash-safe persistence: named records, written through one group-committing SQLite writer; reads never touch the disk."""

from appliance.store.database import Change, Database

__all__ = ["Change", "Database"]
