"""Rehearsal: a new guest becomes a container, runs a process, and is reset to blank, before any container needs it.

The first mounts, the first process and the first NIC cost a guest a second: imports, page faults and, without KVM, translation
of code. After a rehearsal no container waits for that.
"""

import io
import shutil
import tarfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.engine.machines.boot import launch_setup
from appliance.engine.machines.guest_config import GuestConfig
from appliance.engine.model.layout import first_layout
from appliance.errors import Conflict
from appliance.guest import GuestSession
from appliance.hypervisor import Disk, GuestDisk, LocalDisks, MachineSpec
from appliance.image.erofs import write_erofs
from appliance.network.network_record import Endpoint
from tether.rpc.bridge import LoopThread
from tether.transport import Line

_NAME = "rehearsal"
_BOOT_SECONDS = 120.0
# Without KVM the third round is four times as fast as the first; further rounds gain little.
_ROUNDS = 3
_OUTPUT = b"ready\n"


def _program() -> bytes:
    """A program for x86-64 Linux that writes `ready` and ends: an ELF header, one segment, ten instructions."""
    base, entry = 0x400000, 120
    code = bytes.fromhex("b801000000bf01000000be") + (base + entry + 31).to_bytes(4, "little")
    code += bytes.fromhex("ba") + len(_OUTPUT).to_bytes(4, "little") + bytes.fromhex("0f0531ffb03c0f05")
    code = code.ljust(31, b"\x90") + _OUTPUT
    size = entry + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += b"".join(
        value.to_bytes(width, "little")
        for value, width in (
            (2, 2),
            (62, 2),
            (1, 4),
            (base + entry, 8),
            (64, 8),
            (0, 8),
            (0, 4),
            (64, 2),
            (56, 2),
            (1, 2),
            (0, 2),
            (0, 2),
            (0, 2),
            (1, 4),
            (5, 4),
            (0, 8),
            (base, 8),
            (base, 8),
            (size, 8),
            (size, 8),
            (4096, 8),
        )
    )
    return header + code


def _layer() -> io.BytesIO:
    """The only layer of the image, as a tar: the program, and the directories that a container's mounts need."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("bin", "dev", "etc", "proc", "sys"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        content = {
            "bin/ready": _program(),
            "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
        }
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o755, len(data)
            archive.addfile(member, io.BytesIO(data))
    out.seek(0)
    return out


class ContainerRehearsal:
    """A Rehearsal with a container of the smallest image. `endpoint` is an unassigned endpoint (see EndpointAllocator.blank)."""

    def __init__(self, loop: LoopThread, root: Path, endpoint: Endpoint) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self.layer = root / "rehearsal.erofs"
        self._write_layer()

    def _write_layer(self) -> None:
        partial = self.layer.with_suffix(".part")
        with open(partial, "w+b") as out:
            write_erofs(_layer().read, out)
        partial.rename(self.layer)

    @asynccontextmanager
    async def perform(self, line: Line, kind: MachineSpec, disks: list[GuestDisk]) -> AsyncIterator[trio.Event]:
        """GuestFailure, StartRefused or Conflict when the guest cannot."""
        session = GuestSession(self._loop, line)
        ended = trio.Event()

        async def run() -> None:
            await session.run()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await session.hello(_BOOT_SECONDS)
            await self.rehearse(session, kind, disks)
            yield ended
            nursery.cancel_scope.cancel()

    async def rehearse(self, session: GuestSession, kind: MachineSpec, disks: list[GuestDisk]) -> None:
        """GuestFailure, StartRefused or Conflict when the guest cannot."""
        for _ in range(_ROUNDS):
            await self._once(session, [self._endpoint] if kind.nic is not None else [], disks)

    async def _once(self, session: GuestSession, endpoints: list[Endpoint], disks: list[GuestDisk]) -> None:
        config = ContainerConfig(cmd=["ready"], hostname=_NAME)
        setup, process = launch_setup(
            _NAME, config, HostConfig(), first_layout(disks, 0), GuestConfig(endpoints), len(endpoints)
        )
        # The module stays loaded: a container with volumes does not wait for it.
        setup = replace(setup, modules=[*setup.modules, "virtiofs"])
        output = b""
        status = None
        async with session.launch(setup, process, _BOOT_SECONDS) as launched, aclosing(launched.output()) as batches:
            async for batch in batches:
                output += b"".join(record.data for record in batch.records)
                if batch.exit is not None:
                    status = batch.exit
        if status is None or status.code or status.signal or output != _OUTPUT:
            raise Conflict(f"the rehearsal wrote {output!r} and ended with {status}")
        await session.acknowledge(_NAME, status.final_offset)
        await session.delete_process(_NAME)
        await session.reset()


class LocalRehearsal(ContainerRehearsal):
    """A rehearsal whose disks are local files."""

    def __init__(self, loop: LoopThread, root: Path, upper: LocalDisks, endpoint: Endpoint) -> None:
        super().__init__(loop, root, endpoint)
        self._upper = upper

    def disks(self, folder: Path) -> tuple[Disk, ...]:
        """The rehearsal's disks, made in `folder`."""
        self._upper.copy_blank(folder / "rehearsal.ext4")
        # A copy, since the machine deletes it when it gets the disks of a container.
        shutil.copyfile(self.layer, folder / "rehearsal.erofs")
        return (Disk(folder / "rehearsal.ext4", False), Disk(folder / "rehearsal.erofs", True))
