"""MachineSpec as JSON. A driver stores it beside the machine; a restarted `vchd` reads it back when it adopts the machine."""

from pathlib import Path
from typing import Any

import msgspec

from appliance.hypervisor.driver import MachineSpec

# Machines that version 0.1 created carry these names, and they may still run.
_STORED_NAMES = {"nic": "card", "more_nics": "more_cards"}


def encode_spec(spec: MachineSpec) -> Any:
    """Return the spec as objects that JSON can hold."""
    plain = msgspec.to_builtins(spec, enc_hook=str)
    return {_STORED_NAMES.get(name, name): value for name, value in plain.items()}


def decode_spec(stored: Any) -> MachineSpec:
    """Undo `encode_spec`. ValueError if `stored` is not an encoded spec."""
    if not isinstance(stored, dict):
        raise ValueError("not a machine spec")
    plain = {name: stored[kept] for name, kept in _STORED_NAMES.items() if kept in stored} | stored
    return msgspec.convert(plain, MachineSpec, dec_hook=lambda kind, value: Path(value) if kind is Path else value)
