"""The containers of a guest beside the first one."""

from collections.abc import Collection, Sequence

from appliance.errors import VchError
from appliance.guest.encode import encode_addition, encode_disk
from appliance.guest.session import GuestSession
from appliance.guest.setup import GuestAddition
from appliance.hypervisor import GuestDisk
from protos.tether.v1 import sandbox_pb2
from tether.rpc.status import Code, RpcError

_HELLO_SECONDS = 30.0


class GuestContainers:
    """Adds containers to a guest, and removes them, also the first one."""

    def __init__(self, session: GuestSession) -> None:
        self._session = session

    async def supported(self) -> bool:
        """Whether the guest can have further containers; guests of earlier versions cannot."""
        return (await self._session.hello(_HELLO_SECONDS)).adds

    async def add(self, addition: GuestAddition, timeout: float) -> None:
        """Prepare a container without a process. Conflict when the kernel refuses a part."""
        await self._session.call("Sandbox/Add", encode_addition(addition), sandbox_pb2.AddResponse, timeout)

    async def remove(
        self, container_id: str, disks: Sequence[GuestDisk], sockets: Collection[int], timeout: float
    ) -> bool:
        """Kill a container's processes, unmount its file systems and close its sockets; no effect if the container is gone.

        `disks` are those that no other container uses. False when a process of another container still uses one of them.
        """
        request = sandbox_pb2.RemoveRequest(
            id=container_id, disks=[encode_disk(disk.address) for disk in disks], sockets=sorted(sockets)
        )
        try:
            await self._session.call("Sandbox/Remove", request, sandbox_pb2.RemoveResponse, timeout)
        except VchError as error:
            if not isinstance(error.__cause__, RpcError) or error.__cause__.code is not Code.ABORTED:
                raise
            return False
        return True
