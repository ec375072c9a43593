"""Checkpoints without VMs: a scripted guest keeps its processes when its machine is saved, as the saved memory of a VM does."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.container.lifecycle import Exited
from appliance.engine.model.container import Container
from appliance.errors import HypervisorError, InvalidParameter, NotFound, Unsupported, VchError
from appliance.hypervisor.fake import VersatileMachine
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Engine, Host, engine, log_text


async def talker(process: Process) -> int:
    """Repeat each signal's number; SIGTERM ends it."""
    process.write("ready\n")
    while (number := await process.wait_signal()) != 15:
        process.write(f"{number}\n")
    return 7


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    host = Host(nursery, talker=talker)
    host.machine = VersatileMachine
    return host


@pytest.fixture
async def web(daemon: Engine) -> Container:
    """A running container `web`, which has printed `ready`."""
    container = await daemon.run("talker", name="web")
    await logged(container, "ready\n")
    return container


async def logged(container: Container, text: str) -> None:
    while log_text(container) != text:
        await container.log_news.wait()


async def create(daemon: Engine, checkpoint: str, directory: str = "", *, leave_running: bool = False) -> None:
    await daemon.services.checkpoints.create("web", checkpoint, directory, leave_running=leave_running)


async def start(daemon: Engine, checkpoint: str, directory: str = "") -> None:
    await daemon.services.containers.start("web", by_user=True, checkpoint=checkpoint, directory=directory)


def awakenings(host: Host) -> int:
    return sum(len(vm.awakened) for vm in host.guest.vms.values())


async def test_a_checkpoint_ends_the_container(daemon: Engine, host: Host, web: Container) -> None:
    await create(daemon, "one")
    assert isinstance(web.state, Exited)
    # Docker kills the processes.
    assert (web.state.exit_code, web.state.error) == (137, "")
    assert daemon.events(web) == ["create", "start", "die", "checkpoint"]
    assert await daemon.services.checkpoints.list("web", "") == ["one"]
    assert host.vms.vms == {}
    facts = json.loads((web.folder / "checkpoints" / "one" / "container.json").read_text())
    assert facts == {"container": web.id, "log_offset": len("ready\n")}


async def test_a_container_goes_on_from_its_checkpoint(daemon: Engine, host: Host, web: Container) -> None:
    await create(daemon, "one")
    await start(daemon, "one")
    assert web.running
    assert awakenings(host) == 1
    host.guest.process(web.id).signal(10)
    # Its log goes on, too, and its process is the same.
    await logged(web, "ready\n10\n")
    assert host.guest.launched == [web.id]
    await daemon.stop(web)
    assert isinstance(web.state, Exited)
    assert web.state.exit_code == 7


async def test_a_container_may_run_on(daemon: Engine, host: Host, web: Container) -> None:
    await create(daemon, "one", leave_running=True)
    assert web.running
    assert daemon.events(web) == ["create", "start", "checkpoint"]
    # Its clock stood still meanwhile.
    assert awakenings(host) == 1
    host.guest.process(web.id).signal(10)
    await logged(web, "ready\n10\n")
    assert host.vms.vms[web.id].on


async def test_the_end_for_a_checkpoint_is_not_a_reason_to_restart(daemon: Engine, host: Host) -> None:
    policy = HostConfig(restart_policy=RestartPolicy("always", 0))
    container = await daemon.run("talker", name="web", host=policy)
    await create(daemon, "one")
    assert isinstance(container.state, Exited)
    assert not container.restarting


async def test_a_paused_container_runs_after_its_start(daemon: Engine, host: Host, web: Container) -> None:
    await daemon.services.signals.pause("web")
    await create(daemon, "one")
    await start(daemon, "one")
    assert web.running
    assert not web.paused
    assert not host.guest.process(web.id).paused


async def test_a_start_without_the_checkpoint_begins_again(daemon: Engine, host: Host, web: Container) -> None:
    await create(daemon, "one")
    host.guest.power_off(web.id)
    await daemon.start(web)
    await logged(web, "ready\nready\n")
    assert host.guest.launched == [web.id, web.id]
    assert await daemon.services.checkpoints.list("web", "") == ["one"]


async def test_a_checkpoint_without_its_process(daemon: Engine, host: Host, web: Container) -> None:
    await create(daemon, "one")
    host.guest.power_off(web.id)
    with pytest.raises(VchError, match=r"^the checkpoint holds no running process$"):
        await start(daemon, "one")
    assert isinstance(web.state, Exited)
    assert host.vms.vms == {}


async def test_names(daemon: Engine, web: Container) -> None:
    for name in ("b", "a/b", "../b", ".b", "", "a" * 201, "a b"):
        with pytest.raises(VchError) as caught:
            await create(daemon, name)
        text = f"Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        assert str(caught.value) == text
    for name in ("c1", "a_b.c-d", "a" * 200):
        await create(daemon, name, leave_running=True)
    assert await daemon.services.checkpoints.list("web", "") == ["a_b.c-d", "a" * 200, "c1"]
    with pytest.raises(VchError) as caught:
        await create(daemon, "c1")
    assert str(caught.value) == (
        "cannot checkpoint container web: checkpoint with name c1 already exists for container web"
    )
    assert web.running


async def test_only_a_running_container_has_a_checkpoint_made(daemon: Engine) -> None:
    await daemon.create(name="web")
    with pytest.raises(VchError, match=r"^Container web not running$"):
        await create(daemon, "one")
    assert await daemon.services.checkpoints.list("web", "") == []
    with pytest.raises(NotFound, match=r"^No such container: other$"):
        await daemon.services.checkpoints.list("other", "")


class Full(VersatileMachine):
    """Its checkpoints do not fit."""

    async def save_to(self, folder: Path, at_rest: Callable[[], None], *, go_on: bool) -> None:
        (folder / "state").write_text("half")
        raise HypervisorError("no space left")


@pytest.fixture
async def full(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    host.machine = Full
    async with engine(host, tmp_path) as daemon:
        yield daemon


async def test_a_checkpoint_that_fails(full: Engine, host: Host) -> None:
    container = await full.run("talker", name="web")
    with pytest.raises(VchError, match=r"^Cannot checkpoint container web: no space left$"):
        await create(full, "one")
    assert container.running
    assert await full.services.checkpoints.list("web", "") == []
    assert list((container.folder / "checkpoints").iterdir()) == []
    assert "checkpoint" not in full.events(container)
    # A later end is an end as any other.
    host.power_off(container.id)
    await full.ended(container)
    assert isinstance(container.state, Exited)
    assert "the machine ended by itself" in container.state.error


async def test_a_hypervisor_without_checkpoints(nursery: trio.Nursery, tmp_path: Path) -> None:
    async with engine(Host(nursery), tmp_path) as daemon:
        container = await daemon.run(name="web")
        with pytest.raises(Unsupported, match=r"^this hypervisor does not support checkpoints$"):
            await create(daemon, "one")
        assert container.running


async def test_a_checkpoint_that_does_not_exist(daemon: Engine, web: Container) -> None:
    await daemon.stop(web)
    for name in ("none", "../..", ""):
        if name:
            with pytest.raises(VchError) as caught:
                await start(daemon, name)
            assert str(caught.value) == f"checkpoint {name} does not exist for container /web"
        with pytest.raises(VchError) as caught:
            await daemon.services.checkpoints.remove("web", name, "")
        assert str(caught.value) == f"checkpoint {name} does not exist for container web"
    assert web.folder.exists()


@pytest.mark.parametrize("facts", ["", "{}", "[]", '{"container": 1}', "\xff"])
async def test_a_damaged_record(daemon: Engine, web: Container, facts: str) -> None:
    await create(daemon, "one")
    (web.folder / "checkpoints" / "one" / "container.json").write_text(facts)
    with pytest.raises(VchError, match=r"^checkpoint one is damaged: "):
        await start(daemon, "one")
    assert isinstance(web.state, Exited)


async def test_a_damaged_machine(daemon: Engine, host: Host, web: Container) -> None:
    await create(daemon, "one")
    (web.folder / "checkpoints" / "one" / "machine" / "state").write_text("")
    with pytest.raises(HypervisorError, match="the saved state is damaged"):
        await start(daemon, "one")
    assert isinstance(web.state, Exited)
    assert (host.vms.vms, web.endpoints) == ({}, [])


async def test_a_directory_of_the_client(daemon: Engine, web: Container, tmp_path: Path) -> None:
    directory = str(tmp_path / "elsewhere")
    with pytest.raises(NotFound, match=r'^checkpoint directory ".*" does not exist for container web'):
        await daemon.services.checkpoints.list("web", directory)
    await create(daemon, "one", directory)
    assert await daemon.services.checkpoints.list("web", directory) == ["one"]
    assert await daemon.services.checkpoints.list("web", "") == []
    # What else the host has there is not listed.
    for name, facts in (("private", None), ("other", '{"container": "x"}'), ("odd", "[" * 5000), ("list", "[]")):
        folder = Path(directory) / name
        folder.mkdir()
        if facts is not None:
            (folder / "container.json").write_text(facts)
    os.mkfifo(Path(directory) / "private" / "container.json")
    assert await daemon.services.checkpoints.list("web", directory) == ["one"]
    (tmp_path / "file").touch()
    with pytest.raises(InvalidParameter, match=r'^checkpoint directory ".*" exists but is not a directory$'):
        await daemon.services.checkpoints.list("web", str(tmp_path / "file"))
    await start(daemon, "one", directory)
    assert web.running


async def test_a_checkpoint_of_another_container(daemon: Engine, web: Container, tmp_path: Path) -> None:
    directory = str(tmp_path / "elsewhere")
    await create(daemon, "one", directory)
    await daemon.create(name="other")
    with pytest.raises(VchError, match=r"^checkpoint one does not exist for container /other$"):
        await daemon.services.containers.start("other", checkpoint="one", directory=directory)


@pytest.mark.parametrize("directory", ["here", "/a/../b", "/a\0b"])
async def test_a_directory_that_is_refused(daemon: Engine, web: Container, directory: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid checkpoint directory "):
        await create(daemon, "one", directory)
    with pytest.raises(InvalidParameter, match=r"^invalid checkpoint directory "):
        await daemon.services.checkpoints.remove("web", "one", directory)
    assert web.running


async def test_removal(daemon: Engine, web: Container) -> None:
    await create(daemon, "one", leave_running=True)
    await create(daemon, "two", leave_running=True)
    await daemon.services.checkpoints.remove("web", "one", "")
    assert await daemon.services.checkpoints.list("web", "") == ["two"]
    assert not (web.folder / "checkpoints" / "one").exists()


async def test_only_checkpoints_are_removed(daemon: Engine, web: Container, tmp_path: Path) -> None:
    precious = tmp_path / "elsewhere" / "precious"
    precious.mkdir(parents=True)
    (precious.parent / "link").symlink_to(precious)
    with pytest.raises(VchError, match="is not a checkpoint"):
        await daemon.services.checkpoints.remove("web", "precious", str(precious.parent))
    with pytest.raises(VchError, match="does not exist"):
        await daemon.services.checkpoints.remove("web", "link", str(precious.parent))
    assert precious.exists()


async def test_a_checkpoint_that_a_killed_daemon_left(host: Host, tmp_path: Path) -> None:
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("talker", name="web")
        await create(daemon, "one", leave_running=True)
        half = container.folder / "checkpoints" / ".two.half"
        (half / "machine").mkdir(parents=True)
        assert await daemon.services.checkpoints.list("web", "") == ["one"]
    async with engine(host, tmp_path) as daemon:
        assert not half.exists()
        assert await daemon.services.checkpoints.list("web", "") == ["one"]
