"""`docker start`, `restart`, `rename`, `attach` and `wait`, and the removal of links."""

import pytest

from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.container.lifecycle import Exited
from appliance.errors import Conflict, InvalidParameter, NotFound, NotModified
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Engine, Host


async def fail(_: Process) -> int:
    return 1


async def test_a_restart(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    await daemon.services.containers.restart("web", signal="", timeout=5)
    assert container.running
    assert host.guest.launched == [container.id, container.id]
    actions = daemon.events(container)
    assert sorted(actions[2:5]) == ["die", "kill", "stop"]
    assert actions[5:] == ["start", "restart"]
    # A restart by its user is none of its restart policy.
    assert (container.record.restarts, container.record.stopped_by_user) == (0, False)


async def test_a_restart_of_a_container_that_is_down(daemon: Engine) -> None:
    container = await daemon.create()
    await daemon.services.containers.restart(container.id, signal="", timeout=5)
    assert container.running
    assert daemon.events(container) == ["create", "start", "restart"]


async def test_starts_that_change_nothing(daemon: Engine, host: Host) -> None:
    host.guest.programs["fail"] = fail
    running = await daemon.run()
    restarting = await daemon.run("fail", host=HostConfig(restart_policy=RestartPolicy("always", 0)))
    await daemon.until(restarting, lambda: restarting.restarting)
    for container in (running, restarting):
        with pytest.raises(NotModified, match=r"^container is already started$"):
            await daemon.start(container)


async def test_a_paused_container_is_not_started(daemon: Engine) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    with pytest.raises(Conflict, match=r"^cannot start a paused container, try unpause instead$"):
        await daemon.start(container)


async def test_a_start_by_the_user_counts_restarts_anew(daemon: Engine) -> None:
    container = await daemon.create()
    container.record.restarts, container.record.stopped_by_user = 7, True
    await daemon.services.containers.start(container.id)
    assert (container.record.restarts, container.record.stopped_by_user) == (7, True)
    await daemon.stop(container)
    await daemon.services.containers.start(container.id, by_user=True)
    assert (container.record.restarts, container.record.stopped_by_user) == (0, False)


async def test_unknown_containers(daemon: Engine) -> None:
    services = daemon.services.containers
    for call in (services.start("x"), services.restart("x", signal="", timeout=None), services.rename("x", "y1")):
        with pytest.raises(NotFound, match=r"^No such container: x$"):
            await call
    for action in (services.attached, lambda ref: services.wait(ref, "")):
        with pytest.raises(NotFound, match=r"^No such container: x$"):
            action("x")


async def test_a_rename_is_stored(daemon: Engine) -> None:
    container = await daemon.create(name="web")
    await daemon.services.containers.rename("web", "/db")
    assert container.record.name == "db"
    assert not daemon.registry.has_name("web")
    stored = daemon.stored(container)
    assert stored is not None
    assert stored.name == "db"
    assert daemon.attributes(container, "rename")["oldName"] == "/web"
    assert daemon.attributes(container, "rename")["name"] == "db"


async def test_renames_that_are_refused(daemon: Engine) -> None:
    rename = daemon.services.containers.rename
    await daemon.create(name="web")
    await daemon.create(name="db")
    for name in ("web", "/web"):
        with pytest.raises(InvalidParameter, match="Renaming a container with the same name as its current name"):
            await rename("web", name)
    with pytest.raises(InvalidParameter, match="Neither old nor new names may be empty"):
        await rename("web", "")
    with pytest.raises(InvalidParameter, match=r"^Invalid container name \(w b\)"):
        await rename("web", "w b")
    with pytest.raises(Conflict, match='The container name "/db" is already in use by container'):
        await rename("web", "db")
    assert {container.record.name for container in daemon.registry.all()} == {"web", "db"}


async def test_a_rename_that_is_not_stored(daemon: Engine) -> None:
    container = await daemon.create(name="web")
    daemon.database._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(Exception, match="cannot write state"):
        await daemon.services.containers.rename("web", "db")
    daemon.database._connection.execute("PRAGMA query_only=OFF")
    assert daemon.registry.get("web") is container
    assert container.record.name == "web"
    assert not daemon.registry.has_name("db")
    assert "rename" not in daemon.events(container)


async def test_links_are_removed(daemon: Engine) -> None:
    await daemon.create(name="db")
    container = await daemon.create(name="web", host=HostConfig(links=["db:main", "db:spare"]))
    await daemon.services.containers.unlink("web", "main")
    stored = daemon.stored(container)
    assert stored is not None
    assert stored.host_config.links == ["db:spare"]
    with pytest.raises(NotFound, match="no link main in container web"):
        await daemon.services.containers.unlink("web", "main")


async def test_attach_is_an_event(daemon: Engine) -> None:
    container = await daemon.create(name="web")
    daemon.services.containers.attached("web")
    assert daemon.events(container) == ["create", "attach"]
    await daemon.start(container)
    await daemon.services.signals.pause("web")
    with pytest.raises(Conflict, match=r"^container web is paused, unpause the container before attach$"):
        daemon.services.containers.attached("web")
    assert daemon.events(container).count("attach") == 1


async def test_wait_not_running(daemon: Engine) -> None:
    container = await daemon.create()
    wait = daemon.services.containers.wait
    for condition in ("", "not-running"):
        assert wait(container.id, condition)[1]()
    await daemon.start(container)
    _, over = wait(container.id, "not-running")
    assert not over()
    await daemon.stop(container)
    assert over()


async def test_wait_not_running_of_a_container_that_restarts(daemon: Engine, host: Host) -> None:
    host.guest.programs["fail"] = fail
    container = await daemon.create("fail", host=HostConfig(restart_policy=RestartPolicy("always", 0)))
    await daemon.start(container)
    await daemon.until(container, lambda: container.restarting)
    # The end was before this wait began.
    assert not daemon.services.containers.wait(container.id, "not-running")[1]()


async def test_wait_next_exit(daemon: Engine) -> None:
    container = await daemon.run()
    await daemon.stop(container)
    _, over = daemon.services.containers.wait(container.id, "next-exit")
    # The last exit was not the next one.
    assert not over()
    await daemon.start(container)
    assert not over()
    await daemon.stop(container)
    assert over()


@pytest.mark.parametrize("condition", ["removed", "next-exit"])
async def test_wait_ends_with_the_container(daemon: Engine, condition: str) -> None:
    container = await daemon.create()
    found, over = daemon.services.containers.wait(container.id, condition)
    assert found is container
    assert not over()
    await daemon.remove(container)
    assert over()


async def test_wait_removed_outlasts_the_exit(daemon: Engine) -> None:
    container = await daemon.run()
    _, over = daemon.services.containers.wait(container.id, "removed")
    await daemon.stop(container)
    assert isinstance(container.state, Exited)
    assert not over()
