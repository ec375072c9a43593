"""Execs without VMs: start, output, stdin, exit codes, terminals, and what cannot run."""

import pytest
import trio
import trio.testing

from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.engine.containers.execs import Exec
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError
from protos.tether.v1 import process_pb2
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Engine, Host

NOT_FOUND = process_pb2.StartFailure(kind=process_pb2.StartFailure.NOT_FOUND, subject="nothing", searched_path=True)
DENIED = process_pb2.StartFailure(kind=process_pb2.StartFailure.PERMISSION, errno=13, subject="/etc/passwd")
BEGIN = "OCI runtime exec failed: exec failed: unable to start container process: "


def config(*command: str, tty: bool = False, stdin: bool = False) -> ExecConfig:
    return ExecConfig(cmd=list(command), tty=tty, attach_stdin=stdin, attach_stdout=True)


async def output_of(daemon: Engine, one: Exec) -> str:
    """Start an exec and return what it prints."""
    attachment = one.fanout.attach(frozenset({1, 2}))
    await daemon.services.execs.start(one.id)
    return b"".join([data async for _, data in attachment.output()]).decode()


async def over(one: Exec) -> None:
    """Wait until the exec's output has ended."""
    async for _ in one.fanout.attach(frozenset()).output():
        pass


async def test_an_exec_prints_and_ends(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config("echo", "hello"))
    assert (one.began, one.running, one.exit_code) == (False, False, None)
    assert await output_of(daemon, one) == "hello\n"
    # The exit code is there when the output ends.
    assert (one.began, one.running, one.exit_code) == (True, False, 0)
    assert container.running
    actions = daemon.events(container)[2:]
    assert actions == ["exec_create: echo hello", "exec_start: echo hello", "exec_die"]
    assert host.guest.launched == [container.id, one.id]


async def test_the_exit_code_is_the_process_s(daemon: Engine, host: Host) -> None:
    async def fail(process: Process) -> int:
        assert process.join == container.id
        return 42

    host.guest.programs["fail"] = fail
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config("fail"))
    await output_of(daemon, one)
    assert one.exit_code == 42
    assert daemon.services.execs.get(one.id) is one


async def test_stdin_reaches_the_process_until_its_end(daemon: Engine, host: Host) -> None:
    async def cat(process: Process) -> int:
        while data := await process.read():
            process.write(data.decode().upper())
        return 3

    host.guest.programs["cat"] = cat
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config("cat", stdin=True))
    assert await one.stdin.write(b"some words")
    one.stdin.close()
    assert await output_of(daemon, one) == "SOME WORDS"
    assert one.exit_code == 3


async def test_only_a_running_container_has_execs(daemon: Engine) -> None:
    execs = daemon.services.execs
    container = await daemon.create(name="web")
    with pytest.raises(Conflict, match=f"^container {container.id} is not running$"):
        await execs.create("web", config("echo"))
    await daemon.start(container)
    await daemon.services.signals.pause("web")
    with pytest.raises(Conflict, match=r"^Container web is paused, unpause the container before exec$"):
        await execs.create("web", config("echo"))
    with pytest.raises(NotFound, match=r"^No such container: other$"):
        await execs.create("other", config("echo"))


async def test_a_restarting_container_has_no_execs(daemon: Engine, host: Host) -> None:
    async def fail(_: Process) -> int:
        return 1

    host.guest.programs["fail"] = fail
    container = await daemon.run("fail", name="web", host=HostConfig(restart_policy=RestartPolicy("always", 0)))
    await daemon.until(container, lambda: container.restarting)
    with pytest.raises(
        Conflict, match=f"^Container {container.id} is restarting, wait until the container is running$"
    ):
        await daemon.services.execs.create("web", config("echo"))


async def test_a_container_that_is_paused_between_create_and_start(daemon: Engine) -> None:
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config("echo", "x"))
    await daemon.services.signals.pause(container.id)
    with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
        await daemon.services.execs.start(one.id)
    await daemon.services.signals.unpause(container.id)
    assert await output_of(daemon, one) == "x\n"


async def test_an_exec_without_a_command(daemon: Engine) -> None:
    container = await daemon.run()
    with pytest.raises(InvalidParameter, match=r"^No exec command specified$"):
        await daemon.services.execs.create(container.id, ExecConfig())
    assert daemon.services.execs.ids_of(container.id) == []


async def test_an_unknown_exec(daemon: Engine) -> None:
    with pytest.raises(NotFound, match=r"^No such exec instance: abc$"):
        daemon.services.execs.get("abc")
    with pytest.raises(NotFound, match=r"^No such exec instance: abc$"):
        await daemon.services.execs.start("abc")
    with pytest.raises(NotFound, match=r"^No such exec instance: abc$"):
        await daemon.services.execs.resize("abc", 1, 1)


async def test_an_exec_starts_once(daemon: Engine, host: Host) -> None:
    execs = daemon.services.execs
    container = await daemon.run()
    one = await execs.create(container.id, config("sleeper"))
    await execs.start(one.id)
    assert (one.running, one.pid) == (True, host.guest.process(one.id).pid)
    with pytest.raises(Conflict, match=f"^Error: Exec command {one.id} is already running$"):
        await execs.start(one.id)
    host.guest.process(one.id).signal(15)
    await over(one)
    with pytest.raises(Conflict, match=f"^Error: Exec command {one.id} has already run$"):
        await execs.start(one.id)
    assert host.guest.launched == [container.id, one.id]


@pytest.mark.parametrize(
    ("failure", "text", "code"),
    [
        (NOT_FOUND, BEGIN + 'exec: "nothing": executable file not found in $PATH: unknown', 127),
        (DENIED, BEGIN + 'exec: "/etc/passwd": permission denied: unknown', 126),
    ],
    ids=["127", "126"],
)
async def test_a_program_that_cannot_run(
    daemon: Engine, host: Host, failure: process_pb2.StartFailure, text: str, code: int
) -> None:
    host.guest.refusals[failure.subject] = failure
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config(failure.subject))
    with pytest.raises(InvalidParameter) as caught:
        await daemon.services.execs.start(one.id)
    assert str(caught.value) == text
    assert (one.running, one.exit_code) == (False, code)
    assert container.running
    assert "exec_die" not in daemon.events(container)


async def test_a_user_that_does_not_exist(daemon: Engine, host: Host) -> None:
    failure = process_pb2.StartFailure(kind=process_pb2.StartFailure.NO_SUCH_USER, subject="joe")
    host.guest.refusals["id"] = failure
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config("id"))
    with pytest.raises(VchError, match="unable to find user joe: no matching entries in passwd file"):
        await daemon.services.execs.start(one.id)
    assert one.exit_code == 126


async def test_a_terminal_is_resized(daemon: Engine, host: Host) -> None:
    execs = daemon.services.execs
    container = await daemon.run()
    one = await execs.create(container.id, config("sleeper", tty=True))
    # Before the start nothing can be resized: the size is that of the start.
    await execs.resize(one.id, 24, 80)
    assert host.guest.requests == []
    await execs.start(one.id)
    assert host.guest.requests == []
    await execs.resize(one.id, 50, 132)
    assert host.guest.requests == [process_pb2.ResizePtyRequest(id=one.id, rows=50, columns=132)]


async def test_a_terminal_is_resized_while_it_starts(daemon: Engine, host: Host) -> None:
    execs = daemon.services.execs
    container = await daemon.run()
    one = await execs.create(container.id, config("sleeper", tty=True))
    host.guest.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(execs.start, one.id)
        await host.guest.held.wait()
        await execs.resize(one.id, 50, 132)
        host.guest.hold.set()
    assert host.guest.requests == [process_pb2.ResizePtyRequest(id=one.id, rows=50, columns=132)]


async def test_ids_of_a_container(daemon: Engine) -> None:
    execs = daemon.services.execs
    container, other = await daemon.run(name="web"), await daemon.run()
    ended, waiting = [await execs.create("web", config("echo", word)) for word in ("a", "b")]
    await execs.create(other.id, config("echo"))
    await output_of(daemon, ended)
    assert execs.ids_of("web") == [ended.id, waiting.id]
    await daemon.stop(container)
    assert execs.ids_of("web") == []


async def test_the_container_ends_under_an_exec(daemon: Engine, host: Host) -> None:
    execs = daemon.services.execs
    container = await daemon.run()
    one = await execs.create(container.id, config("sleeper", "exec"))
    await execs.start(one.id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(over, one)
        await trio.testing.wait_all_tasks_blocked()
        await daemon.stop(container)
    assert (one.running, one.exit_code) == (False, 137)


async def test_the_machine_dies_under_an_exec(daemon: Engine, host: Host) -> None:
    execs = daemon.services.execs
    container = await daemon.run()
    one = await execs.create(container.id, config("sleeper", "exec"))
    await execs.start(one.id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(over, one)
        await trio.testing.wait_all_tasks_blocked()
        host.power_off(container.id)
    assert (one.running, one.exit_code) == (False, 137)


async def test_execs_of_an_earlier_run_are_forgotten(daemon: Engine) -> None:
    execs = daemon.services.execs
    container = await daemon.run()
    one = await execs.create(container.id, config("echo"))
    await daemon.stop(container)
    await daemon.start(container)
    assert execs.ids_of(container.id) == []
    with pytest.raises(NotFound):
        execs.get(one.id)


async def test_a_container_has_at_most_1000_execs(daemon: Engine) -> None:
    await daemon.run(name="web")
    for _ in range(1000):
        await daemon.services.execs.create("web", config("echo"))
    with pytest.raises(Conflict, match="has 1000 execs: wait until some have ended"):
        await daemon.services.execs.create("web", config("echo"))


async def test_a_client_that_leaves_does_not_cancel_the_start(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    one = await daemon.services.execs.create(container.id, config("echo", "x"))
    attachment = one.fanout.attach(frozenset({1}))
    host.guest.hold = trio.Event()
    with trio.CancelScope() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.services.execs.start, one.id)
            await host.guest.held.wait()
            client.cancel()
            host.guest.hold.set()
    assert b"".join([data async for _, data in attachment.output()]) == b"x\n"
    assert one.exit_code == 0
