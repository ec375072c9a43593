"""Shared namespaces: pinning at creation, and Docker's errors at the start. The texts and statuses are those of moby 28.5."""

import pytest

from appliance.api.status import status_of
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig
from appliance.container.mounts import MountRecord
from appliance.container.sharing import (
    SharedNamespaces,
    Target,
    check_targets,
    different_machines,
    machine_memory,
    machine_name,
    pin,
    shared_namespaces,
    shares_namespaces,
    shares_network,
)
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError

ID = "d" * 64


def _target(status: str = "running", *, restarting: bool = False, host: HostConfig | None = None) -> Target:
    record = ContainerRecord(ID, "web", 0, "", "empty", ContainerConfig(), host or HostConfig(ipc_mode="shareable"))
    return Target(record, status, status in ("running", "paused"), restarting)


def _missing(ref: str) -> Target:
    raise NotFound(f"No such container: {ref}")


def test_modes_name_other_containers() -> None:
    host_config = HostConfig(network_mode="container:a", pid_mode="container:b", ipc_mode="container:a")
    shared = shared_namespaces(host_config)
    assert shared == SharedNamespaces("a", "b", "a")
    assert shared.targets == ("a", "b")
    assert shares_network(host_config)
    assert not shares_namespaces(HostConfig(network_mode="bridge", pid_mode="host", ipc_mode="shareable"))
    for sharing in (
        HostConfig(network_mode="container:a"),
        HostConfig(pid_mode="container:a"),
        HostConfig(ipc_mode="container:a"),
    ):
        assert shares_namespaces(sharing)
    alone = HostConfig(network_mode="front", pid_mode="host", ipc_mode="shareable")
    assert shared_namespaces(alone).targets == ()
    assert not shares_network(alone)


def test_a_rename_changes_nothing() -> None:
    given = HostConfig(network_mode="container:web", pid_mode="container:we", ipc_mode="container:web")
    pinned = pin(given, lambda ref: ID)
    assert shared_namespaces(pinned) == SharedNamespaces(ID, ID, ID)
    # The client's object is as it was.
    assert given.pid_mode == "container:we"


def test_an_unknown_container_is_an_error_of_the_creation_but_for_the_network() -> None:
    def find(ref: str) -> str:
        raise NotFound(f"No such container: {ref}")

    assert pin(HostConfig(network_mode="container:x"), find).network_mode == "container:x"
    for host_config in (HostConfig(pid_mode="container:x"), HostConfig(ipc_mode="container:x")):
        with pytest.raises(InvalidParameter, match=r"^No such container: x$"):
            pin(host_config, find)


_NETWORK = HostConfig(network_mode=f"container:{ID}")
_PID = HostConfig(pid_mode=f"container:{ID}")
_IPC = HostConfig(ipc_mode=f"container:{ID}")
_NOT_SHAREABLE = f"failed to join IPC namespace: container {ID}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
_RESTARTING = f"Container {ID} is restarting, wait until the container is running"


@pytest.mark.parametrize(
    ("joiner", "target", "status", "text"),
    [
        (_NETWORK, None, 500, f"joining network namespace of container: No such container: {ID}"),
        (
            _NETWORK,
            _target("exited"),
            409,
            "cannot join network namespace of a non running container: container web is exited",
        ),
        (
            _NETWORK,
            _target("created"),
            409,
            "cannot join network namespace of a non running container: container web is created",
        ),
        (
            _NETWORK,
            _target("restarting", restarting=True),
            409,
            f"cannot join network namespace of container: {_RESTARTING}",
        ),
        (_PID, None, 500, f"failed to join PID namespace: No such container: {ID}"),
        (_PID, _target("exited"), 500, f"failed to join PID namespace: container {ID} is not running"),
        (_PID, _target("restarting", restarting=True), 500, f"failed to join PID namespace: {_RESTARTING}"),
        (_IPC, None, 400, f"failed to join IPC namespace: No such container: {ID}"),
        (_IPC, _target("exited"), 409, f"failed to join IPC namespace: container {ID} is not running"),
        (_IPC, _target("restarting", restarting=True), 409, f"failed to join IPC namespace: {_RESTARTING}"),
        (_IPC, _target(host=HostConfig()), 400, _NOT_SHAREABLE),
        (_IPC, _target(host=HostConfig(ipc_mode="private")), 400, _NOT_SHAREABLE),
        (_IPC, _target(host=HostConfig(ipc_mode="none")), 400, _NOT_SHAREABLE),
        (_IPC, _target(host=HostConfig(ipc_mode="shareable", tmpfs={"/dev/shm": ""})), 400, _NOT_SHAREABLE),
    ],
)
def test_a_namespace_that_cannot_be_joined(joiner: HostConfig, target: Target | None, status: int, text: str) -> None:
    with pytest.raises(VchError) as caught:
        check_targets("j" * 64, joiner, _missing if target is None else lambda ref: target)
    assert (status_of(caught.value), str(caught.value)) == (status, text)


def test_running_and_paused_containers_can_be_joined() -> None:
    everything = HostConfig(network_mode=f"container:{ID}", pid_mode=f"container:{ID}", ipc_mode=f"container:{ID}")
    for status in ("running", "paused"):
        found = _target(status)
        check_targets("j" * 64, everything, {ID: found}.__getitem__)
    # The IPC namespace of a container that itself has joined one.
    check_targets("j" * 64, _IPC, lambda ref: _target(host=HostConfig(ipc_mode="container:other")))


def test_a_volume_at_dev_shm_is_not_shared() -> None:
    target = _target()
    target.record.mounts = [MountRecord("volume", "/dev/shm")]
    with pytest.raises(InvalidParameter, match="non-shareable IPC"):
        check_targets("j" * 64, _IPC, lambda ref: target)


def test_a_container_cannot_join_itself() -> None:
    with pytest.raises(VchError, match=r"^cannot join own network namespace$"):
        check_targets(ID, _NETWORK, lambda ref: _target("created"))


def test_the_network_is_checked_first_and_the_pid_last() -> None:
    everything = HostConfig(network_mode="container:a", pid_mode="container:b", ipc_mode="container:c")
    with pytest.raises(VchError, match=r"container: No such container: a$"):
        check_targets(ID, everything, _missing)
    with pytest.raises(VchError, match=r"IPC namespace: No such container: c$"):
        check_targets(ID, HostConfig(pid_mode="container:b", ipc_mode="container:c"), _missing)


@pytest.mark.parametrize("name", ["a1", "My.machine_x-1"])
def test_a_machine_has_a_name_as_containers_have(name: str) -> None:
    assert machine_name({"vch.machine": name}) == name
    assert machine_name({"other": name}) == ""


@pytest.mark.parametrize("name", ["", "a", "-x", "a b", "a/b", "ä1", "x" * 129])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid label vch\.machine="):
        machine_name({"vch.machine": name})


@pytest.mark.parametrize(("text", "size"), [("1024", 1024), ("512m", 512 << 20), ("2G", 2 << 30), ("1gb", 1 << 30)])
def test_the_memory_of_a_machine(text: str, size: int) -> None:
    assert machine_memory({"vch.machine-memory": text}) == size
    assert machine_memory({}) == 0


@pytest.mark.parametrize("text", ["", "-1", "1.5g", "x", "9" * 16, "5t"])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid label vch\.machine-memory="):
        machine_memory({"vch.machine-memory": text})


def test_two_machines_are_named() -> None:
    assert isinstance(different_machines("a", "b"), Conflict)
    assert str(different_machines("a", "b")) == (
        "container a and container b run in different machines: start both with the label vch.machine=NAME"
    )
