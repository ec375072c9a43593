"""Adding containers to a guest, and removing them."""

from typing import cast

import pytest
from google.protobuf.message import Message

from appliance.errors import Conflict
from appliance.guest import (
    DiskMount,
    GuestAddition,
    GuestContainers,
    GuestMount,
    GuestSession,
    NetworkConfig,
    PlainMount,
    StateFile,
)
from appliance.guest.failures import translate
from appliance.hypervisor import GuestDisk, ScsiAddress
from protos.tether.v1 import filesystem_pb2, network_pb2, sandbox_pb2
from tether.rpc.status import Code, RpcError


class _Session:
    """Answers every call with an empty message, or with an error of this code."""

    def __init__(self, code: Code | None = None, *, adds: bool = True) -> None:
        self.calls: list[tuple[str, Message]] = []
        self._code, self._adds = code, adds

    async def hello(self, _: float) -> sandbox_pb2.HelloResponse:
        return sandbox_pb2.HelloResponse(adds=self._adds)

    async def call(self, method: str, request: Message, response: type[Message], _: float) -> Message:
        self.calls.append((method, request))
        if self._code is not None:
            error = RpcError(self._code, "the guest's words")
            raise translate(error) from error
        return response()


def _containers(session: _Session) -> GuestContainers:
    return GuestContainers(cast(GuestSession, session))


@pytest.mark.parametrize("adds", [True, False])
async def test_guests_of_earlier_versions_have_one_container(adds: bool) -> None:
    assert await _containers(_Session(adds=adds)).supported() is adds


async def test_a_container_is_added() -> None:
    session = _Session()
    mounts: list[GuestMount] = [
        DiskMount("/b/upper", "ext4", GuestDisk(ScsiAddress(0, 1, 0))),
        PlainMount("/b/layers/0", "", ("bind",), "/run/tether/layers/0"),
    ]
    files = [StateFile("hosts", b"x")]
    addition = GuestAddition("b", "box", mounts, (), NetworkConfig(), ("virtiofs",), files, own_network=True)
    await _containers(session).add(addition, 1)
    expected = sandbox_pb2.AddRequest(
        id="b",
        hostname="box",
        mounts=[
            filesystem_pb2.Mount(
                kind=filesystem_pb2.Mount.DISK,
                target="/b/upper",
                type="ext4",
                disk=filesystem_pb2.Disk(target=1),
            ),
            filesystem_pb2.Mount(target="/b/layers/0", options=["bind"], source="/run/tether/layers/0"),
        ],
        network=network_pb2.NetworkConfig(),
        modules=["virtiofs"],
        files=[sandbox_pb2.StateFile(name="hosts", content=b"x", mode=0o644)],
        own_network=True,
    )
    assert session.calls == [("Sandbox/Add", expected)]


@pytest.mark.parametrize(("code", "removed"), [(None, True), (Code.ABORTED, False)])
async def test_a_container_is_removed_once_nobody_uses_its_disks(code: Code | None, removed: bool) -> None:
    session = _Session(code)
    disks = [GuestDisk(ScsiAddress(0, 1, 2))]
    assert await _containers(session).remove("b", disks, {1025, 1024}, 1) is removed
    assert session.calls == [
        (
            "Sandbox/Remove",
            sandbox_pb2.RemoveRequest(id="b", disks=[filesystem_pb2.Disk(target=1, lun=2)], sockets=[1024, 1025]),
        )
    ]


async def test_other_errors_of_a_removal() -> None:
    with pytest.raises(Conflict, match="the guest's words"):
        await _containers(_Session(Code.FAILED_PRECONDITION)).remove("b", [], [], 1)
