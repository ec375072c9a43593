"""Checkpoints: the saved state of a running container's machine, to start the container again from that moment.

A checkpoint is a folder named by its id, in the container's folder or in one that the client names. The driver writes `machine/`,
this module `container.json`. The folder has another name until it is complete.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from appliance.container.container_record import NAME
from appliance.container.lifecycle import Running
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.errors import Conflict, InvalidParameter, NotFound, Unsupported, VchError
from appliance.hypervisor import Checkpointable

log = logging.getLogger(__name__)

_FOLDER = "checkpoints"
# File names have 255 bytes; an unfinished checkpoint has a longer name.
_LONGEST_NAME = 200
_AWAKE_SECONDS = 30.0
_MOST_FACTS = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint to start from: the machine's state in `folder`; the log had the output up to `log_offset` at that moment."""

    folder: Path
    log_offset: int


class Checkpoints:
    """Errors carry Docker's texts."""

    def __init__(self, registry: ContainerRegistry, repository: ContainerRepository) -> None:
        self._registry = registry
        self._repository = repository

    async def list(self, ref: str, directory: str) -> list[str]:
        """Names, sorted. NotFound or InvalidParameter when the client's directory is not one.

        In the client's directory only checkpoints of this container have a name: what else is there is not the client's business.
        """
        container = self._registry.get(ref)
        root = self._root(container, directory)

        def find() -> list[str]:
            if not directory:
                return [path.name for path in root.iterdir()] if root.exists() else []
            if not root.exists():
                raise NotFound(f'checkpoint directory "{root}" does not exist for container {ref}')
            if not root.is_dir():
                raise InvalidParameter(f'checkpoint directory "{root}" exists but is not a directory')
            return [path.name for path in root.iterdir() if _owner(path) == container.id]

        try:
            names = await trio.to_thread.run_sync(find)
        except OSError as error:
            raise VchError(f"cannot read checkpoint directory {root}: {error.strerror}") from error
        return sorted(name for name in names if NAME.fullmatch(name) and (root / name).is_dir())

    async def create(self, ref: str, checkpoint_id: str, directory: str, *, leave_running: bool) -> None:
        """Save a running container. After a failure the container runs on and no files remain."""
        container = self._registry.get(ref)
        async with container.lock:
            run = await container.current_run()
            if run is None or not isinstance(container.state, Running):
                raise VchError(f"Container {ref} not running")
            if not NAME.fullmatch(checkpoint_id) or len(checkpoint_id) > _LONGEST_NAME:
                raise VchError(f"Invalid checkpoint ID ({checkpoint_id}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
            if run.pod.was_shared:
                raise Conflict(
                    f"cannot checkpoint container {ref}: container {container.record.name} shares its machine with other containers"
                )
            machine = run.machine
            if not isinstance(machine, Checkpointable):
                raise Unsupported("this hypervisor does not support checkpoints")
            root = self._root(container, directory)
            target, half = root / checkpoint_id, root / f".{checkpoint_id}.half"
            if target.exists():
                raise VchError(
                    f"cannot checkpoint container {ref}: checkpoint with name {checkpoint_id} already exists "
                    f"for container {ref}"
                )
            try:
                root.mkdir(parents=True, exist_ok=True, mode=0o700)
                await _remove(half)
                (half / "machine").mkdir(parents=True, mode=0o700)
                # Once the machine is saved, a client that disconnects must not leave it unfinished.
                with trio.CancelScope(shield=True):
                    await self._save(container, run, machine, half, go_on=leave_running)
                    half.rename(target)
            except (VchError, OSError) as error:
                container.expected_exit = False
                await _remove(half)
                raise VchError(f"Cannot checkpoint container {ref}: {error}") from error
            self._repository.emit(container, "checkpoint")
            if leave_running:
                # The machine was paused, so the guest's clock is behind.
                try:
                    await run.session.awaken(_AWAKE_SECONDS)
                except VchError as error:
                    log.warning("container %s after its checkpoint: %s", container.id[:12], error)

    @staticmethod
    async def _save(container: Container, run: Run, machine: Checkpointable, folder: Path, *, go_on: bool) -> None:
        container.expected_exit = not go_on
        offset = 0

        def at_rest() -> None:
            nonlocal offset
            offset = run.offset

        await machine.save_to(folder / "machine", at_rest, go_on=go_on)
        if not go_on:
            container.record.stopped_by_user = True
            # Output that was under way when the machine stopped is in the log now, or else in the checkpoint.
            await run.gone.wait()
            offset = run.offset
        text = json.dumps({"container": container.id, "log_offset": offset})
        await trio.to_thread.run_sync((folder / "container.json").write_text, text)

    def find(self, container: Container, checkpoint_id: str, directory: str) -> Checkpoint:
        """A checkpoint to start from. VchError when no checkpoint has that name, or it belongs to another container."""
        folder = self._root(container, directory) / checkpoint_id
        if not NAME.fullmatch(checkpoint_id) or not folder.is_dir():
            raise VchError(f"checkpoint {checkpoint_id} does not exist for container /{container.record.name}")
        try:
            facts = json.loads((folder / "container.json").read_bytes())
            owner, offset = facts["container"], int(facts["log_offset"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VchError(f"checkpoint {checkpoint_id} is damaged: {error}") from error
        if owner != container.id:
            raise VchError(f"checkpoint {checkpoint_id} does not exist for container /{container.record.name}")
        return Checkpoint(folder / "machine", offset)

    async def remove(self, ref: str, checkpoint_id: str, directory: str) -> None:
        container = self._registry.get(ref)
        folder = self._root(container, directory) / checkpoint_id
        if not NAME.fullmatch(checkpoint_id) or not folder.is_dir() or folder.is_symlink():
            raise VchError(f"checkpoint {checkpoint_id} does not exist for container {ref}")
        if not (folder / "container.json").is_file():
            raise VchError(f"{folder} is not a checkpoint")
        await _remove(folder)

    @staticmethod
    def _root(container: Container, directory: str) -> Path:
        if not directory:
            return container.folder / _FOLDER
        path = Path(directory)
        if not path.is_absolute() or ".." in path.parts or "\0" in directory:
            raise InvalidParameter(f"invalid checkpoint directory {directory}: it must be an absolute path without ..")
        return path


def _owner(folder: Path) -> str:
    """The ID of the container whose checkpoint is in the folder; "" when the folder is not a checkpoint."""
    path = folder / "container.json"
    try:
        if not path.is_file() or path.stat().st_size > _MOST_FACTS:
            return ""
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    return str(facts.get("container", "")) if isinstance(facts, dict) else ""


def remove_unfinished(container: Container) -> None:
    """Remove checkpoints that a killed daemon did not complete."""
    for half in (container.folder / _FOLDER).glob(".*.half"):
        shutil.rmtree(half, ignore_errors=True)


async def _remove(folder: Path) -> None:
    await trio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))
