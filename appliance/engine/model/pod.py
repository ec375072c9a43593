"""A pod: one machine, the session with its guest, and the containers in the machine."""

import logging

import trio

from appliance.errors import Conflict
from appliance.guest import GuestSession
from appliance.hypervisor import Machine

log = logging.getLogger(__name__)


class Pod:
    """A machine and the containers in it. The machine ends with the last container.

    `off` is set when the machine is off, whatever the reason; `gone` when the machine is destroyed. `ending`: the last container
    has left, so no container can join any more.
    """

    def __init__(self, machine: Machine, session: GuestSession) -> None:
        self.machine = machine
        self.session = session
        self.seats: set[str] = set()
        self.ending = False
        self.off = trio.Event()
        self.gone = trio.Event()

    async def run(self) -> None:
        """Carry the session, and watch the machine's power, until the machine is destroyed. A cancellation leaves the machine on."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_power)
                # The session of a machine from the pool runs already.
                if not self.session.began:
                    nursery.start_soon(self.session.run)
                await self.gone.wait()
                nursery.cancel_scope.cancel()
        except Exception:
            log.exception("machine %s is powered off, because its session or its driver failed", self.machine.id[:12])
            await self.fail()
        finally:
            self.session.close()

    async def _watch_power(self) -> None:
        await self.machine.wait_off()
        self.off.set()

    def sit(self, container_id: str) -> None:
        """Take a seat for a container, which keeps the machine until `leave`. Conflict when the last container has left."""
        if self.ending:
            raise Conflict(f"machine {self.machine.id[:12]} is ending")
        self.seats.add(container_id)

    async def leave(self, container_id: str, *, clean: bool) -> None:
        """Give up a container's seat. Returns when no machine has the container's disks; no effect without a seat.

        `clean`: the guest unmounts the container's disks, which takes a moment; only disks that are used again need it.
        """
        if container_id not in self.seats:
            return
        self.ending = True
        if clean and not self.off.is_set():
            await self._shut_down()
        self.session.close()
        await self.machine.destroy()
        # Now, so that a `leave` that was cancelled can be repeated.
        self.seats.remove(container_id)
        self.gone.set()

    async def _shut_down(self) -> None:
        """Let the guest unmount its disks. Returns also when the machine ends before the answer."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self.off.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self.session.shut_down()
            nursery.cancel_scope.cancel()

    async def fail(self) -> None:
        """Power off the machine, because its guest cannot be reached: all its containers end."""
        await self.machine.kill()
        self.off.set()
