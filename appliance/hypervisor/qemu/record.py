"""machine.json in a machine's folder: what the machine is and which process runs it. A restarted appliance reads it."""

import json
from dataclasses import dataclass
from pathlib import Path

from appliance.hypervisor.driver import MachineSpec
from appliance.hypervisor.qemu.process import boot_id, is_running, start_time
from appliance.hypervisor.spec_json import decode_spec, encode_spec

_NAME = "machine.json"


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """A machine on disk. `pid` is 0 without a process; `start_time` and `boot_id` tell whether the pid is still this process.

    `slotted`: the machine has the disk slots of a template. `modules`: it has the modules disk, which version 0.1 did not have.
    """

    spec: MachineSpec
    slotted: bool
    pid: int = 0
    start_time: str = ""
    boot_id: str = ""
    modules: bool = True

    @classmethod
    def of(cls, spec: MachineSpec, slotted: bool, pid: int, *, modules: bool = True) -> "MachineRecord":
        """The record of a machine whose process is `pid`; 0 for a machine without a process."""
        return cls(spec, slotted, pid, start_time(pid) if pid else "", boot_id(), modules)

    @property
    def running_pid(self) -> int:
        """The pid, if that process still runs; else 0."""
        if not self.pid or self.boot_id != boot_id():
            return 0
        try:
            return self.pid if start_time(self.pid) == self.start_time and is_running(self.pid) else 0
        except OSError:
            return 0

    def save(self, folder: Path) -> None:
        """Write the record, whole or not at all."""
        state = {
            "spec": encode_spec(self.spec),
            "slotted": self.slotted,
            "pid": self.pid,
            "start_time": self.start_time,
            "boot_id": self.boot_id,
            "modules": self.modules,
        }
        partial = folder / f"{_NAME}.new"
        partial.write_text(json.dumps(state))
        partial.replace(folder / _NAME)

    @classmethod
    def load(cls, folder: Path) -> "MachineRecord":
        """Read the record. OSError or ValueError when there is none, or it is damaged."""
        state = json.loads((folder / _NAME).read_bytes())
        try:
            spec, modules = decode_spec(state["spec"]), bool(state.get("modules", False))
            return cls(spec, state["slotted"], state["pid"], state["start_time"], state["boot_id"], modules)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{_NAME} is damaged: {error}") from error
