"""The folders of a container in its guest, and the mounts that come from them."""

import json

from appliance.container.config import ContainerConfig
from appliance.container.guest_paths import GuestPaths
from appliance.container.host_config import HostConfig
from appliance.container.spec import build_spec


def _mounts(paths: GuestPaths, ipc_mode: str = "") -> tuple[str, dict[str, dict[str, object]]]:
    spec = json.loads(build_spec(ContainerConfig(cmd=["x"]), HostConfig(ipc_mode=ipc_mode), "box", [], paths))
    return spec["root"]["path"], {mount["destination"]: mount for mount in spec["mounts"]}


def test_the_first_container() -> None:
    root, mounts = _mounts(GuestPaths())
    assert root == "/run/tether/rootfs"
    assert mounts["/etc/hosts"]["source"] == "/run/tether/files/hosts"
    assert mounts["/dev/shm"]["type"] == "tmpfs"


def test_a_container_that_shares_network_and_ipc() -> None:
    paths = GuestPaths("/run/tether/containers/b", "/run/tether/files", "/run/tether/shm")
    root, mounts = _mounts(paths, ipc_mode="container:a")
    assert root == "/run/tether/containers/b/rootfs"
    # The same files: what the other container's processes change is seen here, too.
    assert mounts["/etc/hosts"]["source"] == "/run/tether/files/hosts"
    assert (mounts["/dev/shm"]["type"], mounts["/dev/shm"]["source"]) == ("bind", "/run/tether/shm")


def test_sysctls_are_those_of_a_network_of_its_own() -> None:
    for mode, count in (("default", 2), ("host", 0), ("container:a", 0)):
        spec = json.loads(build_spec(ContainerConfig(cmd=["x"]), HostConfig(network_mode=mode), "box", []))
        assert len(spec["linux"].get("sysctl", {})) == count
