"""What `vch debug` and `vch logs` read: all tasks, the daemon's own log, the timeline of a start."""

from pathlib import Path

import trio

from appliance.api.backend import ContainerRegistry
from appliance.api.router import Route
from appliance.diag import dump_tasks
from appliance.diag.logfile import LOG_NAME, parts
from appliance.http import Reply, Request


class DebugRoutes:
    """Routes of our own, for operators."""

    def __init__(self, containers: ContainerRegistry, data_root: Path) -> None:
        self._containers = containers
        self._data_root = data_root

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/vch/debug/dump"): self.dump,
            ("GET", "/vch/debug/log"): self.log,
            ("GET", "/vch/debug/trace/{name}"): self.trace,
        }

    async def trace(self, request: Request, reply: Reply) -> None:
        """GET /vch/debug/trace/{name}: the timeline of a container's last start."""
        container = self._containers.get(request.path["name"])
        await reply.raw(200, b"text/plain; charset=utf-8", container.trace.text().encode())

    async def dump(self, request: Request, reply: Reply) -> None:
        """GET /vch/debug/dump: all tasks, and where they wait."""
        await reply.raw(200, b"text/plain; charset=utf-8", dump_tasks().encode())

    async def log(self, request: Request, reply: Reply) -> None:
        """GET /vch/debug/log: vchd's own log, with its rotated parts."""
        await reply.start("text/plain; charset=utf-8")
        for part in parts(self._data_root / LOG_NAME):
            with part.open("rb") as file:
                while piece := await trio.to_thread.run_sync(file.read, 1 << 18):
                    await reply.write(piece)
