"""Health checks: runs the configured command in each running container at its interval."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import trio

from appliance.container.exec_config import ExecConfig
from appliance.container.health import MOST_OUTPUT, Health, HealthCheck, Probe, check_of
from appliance.container.lifecycle import Running
from appliance.container.spec import build_exec_spec
from appliance.engine.machines.boot import exec_error
from appliance.engine.machines.guest_config import ProcessConfig
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.errors import VchError
from appliance.guest import GuestSession, Output, ProcessSetup, StartRefused, exit_code

_KILL_SECONDS = 10.0


class HealthMonitor:
    """`configure` returns the configuration of a further process in a container."""

    def __init__(self, repository: ContainerRepository, configure: Callable[[Container], ProcessConfig]) -> None:
        self._repository = repository
        self._configure = configure

    async def watch(self, container: Container, run: Run) -> None:
        """Probe a container until the run is over. A container without a check has no health."""
        check = check_of(container.record.config)
        container.health = None
        if check is None:
            return
        health = container.health = Health()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_repeatedly, container, run.session, check, health)
            await container.wait_end_of(run)
            nursery.cancel_scope.cancel()

    async def _probe_repeatedly(
        self, container: Container, session: GuestSession, check: HealthCheck, health: Health
    ) -> None:
        started = container.state.started if isinstance(container.state, Running) else time.time_ns()
        while True:
            await trio.sleep(health.wait(check, started, time.time_ns()) / 1e9)
            while container.paused:
                await container.changed.wait()
            probe = await self._probe(container, session, check)
            if health.take(probe, check, started):
                self._repository.emit(container, f"health_status: {health.status}")

    async def _probe(self, container: Container, session: GuestSession, check: HealthCheck) -> Probe:
        """Run the check once. Its output is cut at 4 KiB."""
        try:
            own = self._configure(container)
        except VchError as error:
            # A linked container does not run. As in moby, the probe fails without a process.
            now = time.time_ns()
            return Probe(now, now, -1, str(error))
        probe_id, shown = secrets.token_hex(32), " ".join(check.command)
        spec = build_exec_spec(own.config, own.host_config, ExecConfig(cmd=check.command))
        process = ProcessSetup(probe_id, spec, join=container.id)
        seconds = check.timeout / 1e9
        self._repository.emit(container, f"exec_create: {shown}", execID=probe_id)
        self._repository.emit(container, f"exec_start: {shown}", execID=probe_id)
        begin = time.time_ns()
        output_text = b""
        code = -1
        try:
            with trio.move_on_after(seconds) as patience:
                async with session.launch(None, process, seconds + _KILL_SECONDS) as launched:
                    output_text, code = await _collect(session, probe_id, launched.output())
            if patience.cancelled_caught:
                output_text = f"Health check exceeded timeout ({seconds:g}s)".encode()
                await session.signal(probe_id, 9)
                with trio.move_on_after(_KILL_SECONDS):
                    await session.wait_process(probe_id)
            await session.delete_process(probe_id)
        except StartRefused as error:
            # As with moby, a check that cannot start has no exit code: only its text says 126 or 127.
            output_text = str(exec_error(error)[0]).encode()
        except VchError as error:
            output_text = str(error).encode()
        self._repository.emit(container, "exec_die", execID=probe_id, exitCode=str(code))
        return Probe(begin, time.time_ns(), code, output_text[:MOST_OUTPUT].decode("utf-8", "replace"))


async def _collect(session: GuestSession, process_id: str, output: AsyncGenerator[Output, None]) -> tuple[bytes, int]:
    """(The first MOST_OUTPUT bytes of the output, the exit code)."""
    output_text = b""
    async with aclosing(session.follow(process_id, 0, output)) as stream:
        async for batch in stream:
            for record in batch.records:
                output_text += record.data[: MOST_OUTPUT - len(output_text)]
            if batch.records:
                await session.acknowledge(process_id, batch.records[-1].end)
            if batch.exit is not None:
                return output_text, exit_code(batch.exit)
    raise VchError("the output ended without an exit")
