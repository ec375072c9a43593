"""Mounts of the daemon's own API from the engine's side: which mounts lead there, and for whom the connections are served."""

import socket
from pathlib import Path

import pytest
import trio

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig, Mount
from appliance.container.mounts import MountRecord
from appliance.roles import Principal, Role
from appliance.volume import bind_source
from tests.appliance.engine.harness import Host, engine

_SOCKET = "/var/run/docker.sock"


async def test_which_mounts_lead_to_the_api(host: Host, tmp_path: Path) -> None:
    path, link, other = tmp_path / "api.sock", tmp_path / "link.sock", tmp_path / "other.sock"
    link.symlink_to(path)
    with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as foreign:
        own.bind(str(path))
        foreign.bind(str(other))
        async with engine(host, tmp_path, "-H", f"unix://{path}") as daemon:

            async def leads_there(wanted: HostConfig) -> bool:
                [mount] = (await daemon.create(host=wanted)).record.mounts
                return mount.api

            for text in (f"{path}:/s", f"{link}:/s:ro", f"/nowhere/docker.sock:{_SOCKET}", "/nowhere:/run/docker.sock"):
                assert await leads_there(HostConfig(binds=[text])), text
            assert await leads_there(HostConfig(mounts=[Mount(type="bind", source="/nowhere", target=_SOCKET)]))
            # A socket of the host may be another daemon's, also at Docker's path.
            for text in (f"{other}:/s", f"{other}:{_SOCKET}", f"volume:{_SOCKET}"):
                assert not await leads_there(HostConfig(binds=[text])), text
            named = await daemon.create(name="named", host=HostConfig(binds=[f"{path}:/s"]))
            assert named.record.mounts[0].source == str(path)
            assert await leads_there(HostConfig(volumes_from=["named"]))


async def test_docker_s_path_on_a_host_with_another_daemon(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with a scope sees its API at Docker's path, and may not reach the other daemon."""
    theirs = tmp_path / "docker.sock"
    monkeypatch.setattr(bind_source, "_API_TARGETS", (str(theirs),))
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(theirs))
        async with engine(host, tmp_path) as daemon:
            containers = daemon.services.creation
            for scope, leads_there in (("container:a", True), ("", False)):
                creator = Principal("client", Role.SCOPED if scope else Role.FULL, scope)
                wanted = HostConfig(binds=[f"{theirs}:{theirs}"])
                made = await containers.create("", ContainerConfig(image="empty", cmd=["sleeper"]), wanted, {}, creator)
                assert made.record.mounts[0].api is leads_there
            elsewhere = MountRecord("bind", "/run/docker.sock", source=str(theirs))
            assert not containers.is_api_mount(elsewhere)


async def test_connections_have_the_principal_of_their_container(host: Host, tmp_path: Path) -> None:
    host.guest.sockets = tmp_path
    with trio.fail_after(60):
        async with engine(host, tmp_path, "--docker-socket-default", "read") as daemon:
            wanted = HostConfig(binds=[f"/nowhere:{_SOCKET}"])
            found = []
            for labels in (dict[str, str](), {"vch.docker-socket": "scoped"}):
                made = await daemon.create(host=wanted, config=ContainerConfig(labels=labels))
                container = await daemon.start(made)
                program = await trio.open_unix_socket(tmp_path / container.id[:12] / "0")
                async with program:
                    await program.send_all(b"request")
                    await program.send_eof()
                    connection = await daemon.mounts.receive()
                    with connection.socket:
                        assert await connection.socket.recv(100) == b"request"
                        await connection.socket.send(b"answer")
                    assert await program.receive_some() == b"answer"
                found.append((container, connection.principal))
        (reader, first), (maker, second) = found
        assert first == Principal(f"container:{reader.id}", Role.READ)
        assert second == Principal(f"container:{maker.id}", Role.SCOPED, f"container:{maker.id}")
