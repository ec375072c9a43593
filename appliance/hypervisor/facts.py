"""Machines' specs as JSON has them: drivers keep them with the machine, for the appliance that comes after."""

from pathlib import Path
from typing import Any

import msgspec

from appliance.hypervisor.driver import MachineSpec


def encode_spec(spec: MachineSpec) -> Any:
    """What JSON can hold."""
    return msgspec.to_builtins(spec, enc_hook=str)


def decode_spec(raw: Any) -> MachineSpec:
    """Undo `encode_spec`. ValueError for what is no spec."""
    return msgspec.convert(raw, MachineSpec, dec_hook=lambda kind, value: Path(value) if kind is Path else value)
