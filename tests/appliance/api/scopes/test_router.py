"""A client with a scope against its neighbours: every route with every spelling of their objects, and every reference from its own objects.

The daemon runs without VMs. `neighbour` is another scope, `operator` sees everything.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.api.routes import Api, Backends
from appliance.api.scopes.router import scoped_backends
from appliance.container.sharing import SHARED_NETWORK
from appliance.roles import LOCAL, Principal, Role
from tests.appliance.engine.guest import echo
from tests.appliance.engine.harness import Engine, Host, engine
from tests.appliance.engine.networking.fake_networks import RecordingHost
from tests.appliance.http.wire import served

_MARK = "NEIGHBOUR-SECRET"


@dataclass
class Client:
    """A client of the API, and the ids of what it has made."""

    api: Api
    principal: Principal
    container: str = ""
    execution: str = ""
    network: str = ""
    ids: list[str] = field(default_factory=list)

    async def ask(self, line: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        sent = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else "Content-Type: application/json\r\n"
        head = f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {len(sent)}\r\n\r\n"
        async with served(self.api, self.principal) as wire:
            await wire.send(head.encode() + sent)
            answer = await wire.receive(1 << 24)
        start, _, content = answer.partition(b"\r\n\r\n")
        return int(start.split()[1]), content

    async def json(self, line: str, body: Any = None) -> Any:
        """The decoded body of an answer, which must be a success."""
        status, content = await self.ask(line, body)
        assert status < 300, (line, status, content)
        return json.loads(content) if content else None

    async def message(self, line: str, body: Any = None) -> tuple[int, str]:
        """The status and the text of an error."""
        status, content = await self.ask(line, body)
        return status, json.loads(content)["message"]

    async def create(self, name: str = "", **host_config: Any) -> tuple[int, Any]:
        """Ask for a container."""
        status, content = await self.ask(
            f"POST /containers/create?name={name}", {"Image": "empty", "Cmd": ["sleeper"], "HostConfig": host_config}
        )
        return status, json.loads(content)

    async def furnish(self, name: str) -> None:
        """Make a running container with a volume, an exec and a network, all called `name`."""
        config = {
            "Image": "empty",
            "Cmd": ["sleeper"],
            "Labels": {"mark": f"{_MARK}-{name}"},
            "HostConfig": {"Binds": [f"{name}-volume:/data"]},
        }
        self.container = (await self.json(f"POST /containers/create?name={name}", config))["Id"]
        await self.json(f"POST /containers/{name}/start")
        exec_config = {"Cmd": ["echo"], "AttachStdout": True}
        self.execution = (await self.json(f"POST /containers/{name}/exec", exec_config))["Id"]
        wanted = {"Name": f"{name}-network", "Labels": {"mark": _MARK}}
        self.network = (await self.json("POST /networks/create", wanted))["Id"]
        self.ids = [self.container, self.execution, self.network]


@dataclass
class World:
    """A daemon, its operator, and two clients with scopes of their own."""

    daemon: Engine
    host_network: RecordingHost
    operator: Client
    neighbour: Client
    stranger: Client

    async def snapshot(self) -> Any:
        """What the operator sees of all objects."""
        return [
            sorted(
                (one["Id"], one["State"], one["Names"])
                for one in await self.operator.json("GET /containers/json?all=1")
            ),
            sorted(one["Id"] for one in await self.operator.json("GET /networks")),
            sorted(one["Name"] for one in (await self.operator.json("GET /volumes"))["Volumes"]),
            sorted((one["Id"], tuple(one["RepoTags"])) for one in await self.operator.json("GET /images/json")),
        ]


def _scoped(name: str) -> Principal:
    return Principal(name, Role.SCOPED, name)


@asynccontextmanager
async def _world(nursery: trio.Nursery, root: Path) -> AsyncIterator[World]:
    host = Host(nursery, echo=echo)
    network = host.network = RecordingHost()
    with trio.fail_after(120):
        async with engine(host, root) as daemon:
            clients = [
                Client(daemon.router, principal)
                for principal in (LOCAL, _scoped("container:b"), _scoped("container:a"))
            ]
            world = World(daemon, network, *clients)
            await world.operator.furnish("office")
            await world.neighbour.furnish("nextdoor")
            await world.stranger.furnish("mine")
            yield world


@pytest.fixture
async def world(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[World]:
    async with _world(nursery, tmp_path) as world:
        yield world


def _targets(path: str, owner: Client, name: str) -> list[str]:
    """The path of a route with each spelling of an owner's object."""
    spellings = {
        "containers": [owner.container, owner.container[:12], owner.container[:3], name, f"%2F{name}"],
        "exec": [owner.execution],
        "networks": [owner.network, owner.network[:12], f"{name}-network"],
        "volumes": [f"{name}-volume"],
        "vch": [owner.container, name],
    }
    noun = path.split("/")[1]
    found = spellings.get(noun, ["x"])
    return [
        re.sub(r"\{(name|id)(:\.\*)?\}", ref, path).replace("{alias}", "x").replace("{checkpoint}", "x")
        for ref in found
    ]


_BODIES: dict[str, Any] = {
    "POST /containers/{name}/exec": {"Cmd": ["echo"], "AttachStdout": True},
    "POST /containers/{name}/copy": {"Resource": "/etc"},
    "POST /containers/{name}/update": {"Memory": 64 << 20},
    "POST /containers/{name}/checkpoints": {"CheckpointID": "one"},
    "POST /exec/{id}/start": {"Detach": True},
}
_QUERIES = {
    "POST /containers/{name}/rename": "?name=stolen",
    "POST /containers/{name}/resize": "?h=1&w=1",
    "POST /containers/{name}/attach": "?stream=1&stdout=1&stdin=1",
    "POST /containers/{name}/kill": "?signal=KILL",
    "DELETE /containers/{name}": "?force=1&v=1",
    "DELETE /containers/{name}/{alias}": "?link=1",
    "GET /containers/{name}/logs": "?stdout=1",
    "GET /containers/{name}/stats": "?stream=0",
    "GET /containers/{name}/archive": "?path=/etc",
    "HEAD /containers/{name}/archive": "?path=/etc",
    "PUT /containers/{name}/archive": "?path=/etc",
    "POST /exec/{id}/resize": "?h=1&w=1",
}


async def test_every_route_with_a_neighbours_object(world: World) -> None:
    before, tried = await world.snapshot(), 0
    for method, path in world.daemon.router.keys:
        route = f"{method} {path}"
        if "{" not in path or path.startswith(("/images", "/distribution")):
            continue
        for owner, name in ((world.neighbour, "nextdoor"), (world.operator, "office")):
            body = _BODIES.get(route)
            if path in ("/networks/{name}/connect", "/networks/{name}/disconnect"):
                body = {"Container": world.stranger.container}
            for target in _targets(path, owner, name):
                status, content = await world.stranger.ask(f"{method} {target}{_QUERIES.get(route, '')}", body)
                assert status in (403, 404), (route, target, status, content)
                assert _MARK.encode() not in content
                if status == 404 and method != "HEAD":
                    text = json.loads(content)["message"]
                    assert re.fullmatch(
                        r"No such container: \S+|No such exec instance: \S+|network \S+ not found|get \S+: no such volume|page not found",
                        text,
                    ), text
                tried += 1
    assert tried > 300
    assert await world.snapshot() == before


async def test_the_same_answers_as_for_objects_that_do_not_exist(world: World) -> None:
    for line, foreign, missing in (
        ("GET /containers/{}/json", "nextdoor", "nowhere"),
        ("DELETE /volumes/{}", "nextdoor-volume", "nowhere-volume"),
        ("DELETE /volumes/{}?force=1", "nextdoor-volume", "nowhere-volume"),
        ("GET /networks/{}", "nextdoor-network", "nowhere-network"),
        ("GET /exec/{}/json", world.neighbour.execution, "0" * 64),
    ):
        there, not_there = [await world.stranger.ask(line.format(name)) for name in (foreign, missing)]
        assert (there[0], there[1].replace(foreign.encode(), b"X")) == (
            not_there[0],
            not_there[1].replace(missing.encode(), b"X"),
        )


_LISTS = (
    "GET /containers/json?all=1",
    "GET /containers/json?all=1&size=1",
    "GET /networks",
    "GET /networks/json",
    "GET /v1.25/networks",
    "GET /networks/bridge",
    "GET /networks/none",
    "GET /volumes",
    "GET /system/df",
    "GET /events?since=1&until=1.000000001",
    "GET /images/json?all=1",
    "GET /images/empty/json",
    "GET /images/empty/history",
    "GET /info",
    'GET /containers/json?all=1&filters={"ancestor":["empty"]}',
    'GET /containers/json?all=1&filters={"volume":["nextdoor-volume"]}',
    'GET /containers/json?all=1&filters={"network":["bridge"]}',
    'GET /containers/json?all=1&filters={"name":["nextdoor"]}',
    'GET /volumes?filters={"dangling":["false"]}',
    'GET /networks?filters={"name":["nextdoor"]}',
)


async def test_a_list_has_only_the_clients_own(world: World) -> None:
    for line in _LISTS:
        status, content = await world.stranger.ask(line.replace('"', "%22"))
        assert status == 200, (line, content)
        for owner, name in ((world.neighbour, "nextdoor"), (world.operator, "office")):
            for text in (*owner.ids, f'"/{name}"', f"{name}-", f"{_MARK}-{name}"):
                assert text.encode() not in content, (line, text)
    for key in ("since", "before"):
        for ref in ("nextdoor", world.operator.container[:12]):
            found = await world.stranger.message(f"GET /containers/json?filters=%7B%22{key}%22:[%22{ref}%22]%7D")
            assert found == (404, f"No such container: {ref}")


async def test_what_a_client_sees_of_its_own(world: World) -> None:
    client = world.stranger
    (one,) = await client.json("GET /containers/json")
    assert (one["Id"], one["Names"]) == (client.container, ["/mine"])
    for ref in (client.container, client.container[:12], "mine"):
        assert (await client.json(f"GET /containers/{ref}/json"))["Id"] == client.container
    assert {one["Name"] for one in await client.json("GET /networks")} == {"bridge", "none", "mine-network"}
    assert list((await client.json("GET /networks/bridge"))["Containers"]) == [client.container]
    assert [one["Name"] for one in (await client.json("GET /volumes"))["Volumes"]] == ["mine-volume"]
    assert (await client.json("GET /images/json"))[0]["Containers"] == 1
    info = await client.json("GET /info")
    assert (info["Containers"], info["ContainersRunning"]) == (1, 1)
    usage = await client.json("GET /system/df")
    assert [len(usage[key]) for key in ("Containers", "Volumes")] == [1, 1]
    assert len(await world.operator.json("GET /containers/json")) == 3
    assert len((await world.operator.json("GET /networks/bridge"))["Containers"]) == 3


def test_a_scope_has_no_build_cache() -> None:
    parts: Any = [object() for _ in fields(Backends)]
    backends = Backends(*parts)
    assert backends.build_cache is not None
    assert scoped_backends(backends, "container:a").build_cache is None


async def test_events(world: World) -> None:
    events = [event for event in world.daemon.all_events() if event.owner == "container:a"]
    assert {event.type for event in events} == {"container", "network", "volume"}
    # A container joins the default network, which has no owner.
    assert ("network", "connect") in {(event.type, event.action) for event in events}
    for event in events:
        shown = json.dumps([event.id, event.attributes])
        assert not any(text in shown for owner in (world.neighbour, world.operator) for text in owner.ids)
    async with served(world.stranger.api, world.stranger.principal) as wire:
        await wire.send(b"GET /events?since=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        await wire.receive(300)
        await world.neighbour.json(f"POST /containers/{world.neighbour.container}/restart?t=0")
        await world.stranger.json("POST /containers/mine/rename?name=renamed")
        seen = b""
        while b'"rename"' not in seen:
            seen += await wire.receive(1)
    for owner in (world.neighbour, world.operator):
        assert not any(text.encode() in seen for text in owner.ids)


async def test_a_prune_leaves_the_objects_of_others(world: World) -> None:
    for client, name in ((world.neighbour, "nextdoor"), (world.operator, "office"), (world.stranger, "mine")):
        await client.json("POST /volumes/create", {"Name": f"{name}-unused"})
        await client.create(f"{name}-stopped")
    pruned = [await world.stranger.json(f"POST /{noun}/prune") for noun in ("containers", "networks")]
    pruned.append(await world.stranger.json("POST /volumes/prune?filters=%7B%22all%22:%5B%22true%22%5D%7D"))
    assert len(pruned[0]["ContainersDeleted"]) == 1
    assert pruned[1]["NetworksDeleted"] == ["mine-network"]
    assert pruned[2]["VolumesDeleted"] == ["mine-unused"]
    containers, networks, volumes, _ = await world.snapshot()
    assert len(containers) == 5
    assert {world.neighbour.network, world.operator.network} <= set(networks)
    assert {"nextdoor-unused", "office-unused"} <= set(volumes)


_OPTIONS: tuple[tuple[Any, int, str | None], ...] = (
    ({"VolumesFrom": ["nextdoor"]}, 400, "No such container: nextdoor"),
    ({"VolumesFrom": ["{short}:ro"]}, 400, "No such container: {short}"),
    ({"Links": ["nextdoor:db"]}, 400, "could not get container for nextdoor: No such container: nextdoor"),
    ({"NetworkMode": "nextdoor-network"}, 400, "network nextdoor-network not found"),
    ({"NetworkMode": "container:nextdoor"}, 400, "No such container: nextdoor"),
    ({"PidMode": "container:nextdoor"}, 400, "No such container: nextdoor"),
    ({"IpcMode": "container:nextdoor"}, 400, "No such container: nextdoor"),
    ({"NetworkMode": "container:mine", "Dns": ["1.1.1.1"]}, 400, "conflicting options: dns and the network mode"),
    ({"Binds": ["nextdoor-volume:/x"]}, 409, "create nextdoor-volume: volume name must be unique"),
    (
        {"Mounts": [{"Type": "volume", "Source": "office-volume", "Target": "/x"}]},
        409,
        "create office-volume: volume name must be unique",
    ),
    (
        {"Binds": ["/etc:/x"]},
        403,
        "authorization denied: a scoped client may not mount paths of the host: bind mount of /etc",
    ),
    ({"Binds": ["/etc:/var/run/docker.sock"]}, 403, None),
    ({"Privileged": True}, 403, "authorization denied: a scoped client may not use the option Privileged"),
    ({"NetworkMode": "host"}, 403, "authorization denied: a scoped client may not use NetworkMode host"),
)


async def test_references_and_options_of_a_new_container(world: World) -> None:
    before = await world.snapshot()
    short = world.neighbour.container[:12]
    for host_config, status, message in _OPTIONS:
        given = json.loads(json.dumps(host_config).replace("{short}", short))
        code, answer = await world.stranger.create("new", **given)
        assert code == status, answer
        if message is not None:
            assert answer["message"] == message.replace("{short}", short)
    assert await world.snapshot() == before


async def test_networks_of_a_new_container(world: World) -> None:
    for ref in (world.neighbour.network, "office-network", "host"):
        body = {"Image": "empty", "NetworkingConfig": {"EndpointsConfig": {ref: {}}}}
        assert await world.stranger.message("POST /containers/create", body) == (400, f"network {ref} not found")
    body = {
        "Image": "empty",
        "Cmd": ["sleeper"],
        "NetworkingConfig": {"EndpointsConfig": {"mine-network": {}, "bridge": {}}},
    }
    made = await world.stranger.json("POST /containers/create", body)
    shape = await world.stranger.json(f"GET /containers/{made['Id']}/json")
    assert set(shape["NetworkSettings"]["Networks"]) == {"bridge", "mine-network"}


async def test_containers_and_networks_of_others_are_not_connected(world: World) -> None:
    for action in ("connect", "disconnect"):
        for ref in ("nextdoor", world.operator.container[:12]):
            found = await world.stranger.message(f"POST /networks/mine-network/{action}", {"Container": ref})
            assert found == (404, f"No such container: {ref}")
    made = (await world.stranger.create("later"))[1]["Id"]
    await world.stranger.json("POST /networks/mine-network/connect", {"Container": "later"})
    assert world.daemon.registry.get(made).record.attachments[-1].network == "mine-network"


async def test_own_references(world: World) -> None:
    client = world.stranger
    short = client.container[:12]
    status, made = await client.create(
        "second",
        VolumesFrom=[f"{short}:ro", "mine"],
        Links=[f"{short}:db"],
        NetworkMode="bridge",
        Binds=["mine-volume:/again", "mine-new:/new"],
    )
    assert status == 201, made
    record = world.daemon.registry.get(made["Id"]).record
    assert (record.owner, record.socket_role) == ("container:a", "scoped")
    assert record.host_config.volumes_from == [f"{client.container}:ro", "mine"]
    assert {mount.name for mount in record.mounts} == {"mine-volume", "mine-new"}
    assert {one["Name"] for one in (await client.json("GET /volumes"))["Volumes"]} == {"mine-volume", "mine-new"}
    status, made = await client.create("third", NetworkMode="mine-network")
    assert world.daemon.registry.get(made["Id"]).record.host_config.network_mode == "mine-network"


async def test_own_neighbours(world: World) -> None:
    client = world.stranger
    mode = f"container:{client.container}"
    for ref in ("mine", client.container[:12]):
        by_ref = f"container:{ref}"
        status, made = await client.create(f"beside-{ref}", NetworkMode=by_ref, PidMode=by_ref, IpcMode=by_ref)
        assert status == 201, made
        shown = await client.json(f"GET /containers/{made['Id']}/json")
        assert {shown["HostConfig"][name] for name in ("NetworkMode", "PidMode", "IpcMode")} == {mode}
        settings = shown["NetworkSettings"]
        assert (settings["SandboxID"], settings["Networks"], settings["Ports"]) == ("", {}, {})
        connecting = await client.message("POST /networks/mine-network/connect", {"Container": made["Id"]})
        assert connecting == (400, SHARED_NETWORK)


async def test_names_of_others(world: World) -> None:
    taken = (
        'Conflict. The container name "/nextdoor" is already in use. '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert await world.stranger.create("nextdoor") == (409, {"message": taken})
    assert await world.stranger.message("POST /containers/mine/rename?name=nextdoor") == (409, taken)
    status, message = await world.stranger.create("mine")
    assert (status, world.stranger.container in message["message"]) == (409, True)
    for version in ("v1.51", "v1.43"):
        found = await world.stranger.message(f"POST /{version}/networks/create", {"Name": "office-network"})
        assert found == (409, "network with name office-network already exists")
    assert await world.stranger.message("POST /volumes/create", {"Name": "office-volume"}) == (
        409,
        "create office-volume: volume name must be unique",
    )


async def test_names_that_change_hands(world: World) -> None:
    """A name in a record of a client must not lead to the object that another client has made under that name later."""
    client = world.stranger
    await client.create("db")
    await client.json("POST /containers/db/start")
    linked = (await client.create("linked", Links=["db:db"]))[1]["Id"]
    await client.json("POST /networks/create", {"Name": "lan"})
    joined = (await client.create("joined", NetworkMode="lan"))[1]["Id"]
    await client.json("DELETE /containers/db?force=1")
    await client.json("DELETE /networks/lan")
    assert (await world.neighbour.create("db"))[0] == 201
    await world.neighbour.json("POST /containers/db/start")
    await world.neighbour.json("POST /networks/create", {"Name": "lan"})
    assert (await client.message(f"POST /containers/{linked}/start"))[1].startswith(
        "Cannot link to a non running container: /db "
    )
    assert (await client.message(f"POST /containers/{joined}/start"))[1] == "network lan not found"
    # The operator's container does not join a network that a client has made under a name of the operator's, either.
    await world.operator.json("POST /networks/create", {"Name": "ours"})
    ours = (await world.operator.create("ours", NetworkMode="ours"))[1]["Id"]
    await world.operator.json("DELETE /networks/ours")
    await world.neighbour.json("POST /networks/create", {"Name": "ours"})
    assert (await world.operator.message(f"POST /containers/{ours}/start"))[1] == "network ours not found"


async def test_a_volume_that_an_operator_uses(world: World) -> None:
    made = (await world.operator.create("guest", Binds=["mine-volume:/x"]))[1]["Id"]
    await world.stranger.json("DELETE /containers/mine?force=1")
    status, message = await world.stranger.message("DELETE /volumes/mine-volume")
    assert (status, message) == (409, "remove mine-volume: volume is in use")
    assert made not in message


async def test_names_that_would_be_taken_for_an_id(world: World) -> None:
    short = world.operator.container[:12]
    assert (await world.stranger.create(short))[0] == 400
    assert (await world.stranger.message(f"POST /containers/mine/rename?name={short}"))[0] == 400
    assert (await world.stranger.message("POST /networks/create", {"Name": world.operator.network[:12]}))[0] == 400
    assert (await world.operator.json(f"GET /containers/{short}/json"))["Id"] == world.operator.container


_BEYOND: tuple[tuple[str, Any], ...] = (
    ("POST /networks/create", {"Name": "n", "Driver": "overlay"}),
    ("POST /networks/create", {"Name": "n", "Options": {"com.docker.network.bridge.name": "docker0"}}),
    ("POST /networks/create", {"Name": "n", "IPAM": {"Config": [{"Subnet": "192.0.2.0/24"}]}}),
    ("POST /volumes/create", {"Name": "v", "DriverOpts": {"type": "none", "o": "bind", "device": "/etc"}}),
    ("POST /volumes/create", {"Name": "v", "DriverOpts": {"type": "nfs", "o": "addr=192.0.2.1", "device": ":/x"}}),
    ("POST /containers/mine/exec", {"Cmd": ["echo"], "Privileged": True}),
    ("POST /containers/mine/checkpoints", {"CheckpointID": "one", "CheckpointDir": "/etc"}),
    ("POST /containers/mine/start?checkpoint=one&checkpoint-dir=/etc", None),
    ("GET /containers/mine/checkpoints?dir=/etc", None),
    ("DELETE /containers/mine/checkpoints/one?dir=/etc", None),
    ("POST /images/create?fromSrc=-", None),
    ("POST /images/empty/tag?repo=stolen", None),
    ("DELETE /images/empty", None),
    ("POST /images/prune", None),
    ("POST /images/load", None),
    ("POST /images/empty/push", None),
    ("GET /vch/debug/dump", None),
    ("POST /build", None),
    ("POST /session", None),
    ("GET /swarm", None),
    ("POST /swarm/init", {}),
    ("GET /plugins", None),
)


async def test_what_reaches_beyond_the_scope(world: World) -> None:
    world.host_network.used.append("192.0.2.0/25")
    before = await world.snapshot()
    for line, body in _BEYOND:
        status, message = await world.stranger.message(line, body)
        assert status == 403, (line, message)
    assert await world.snapshot() == before


async def test_a_commit(world: World) -> None:
    commit = "POST /commit?container={}&repo={}"
    assert await world.stranger.message(commit.format("nextdoor", "new")) == (404, "No such container: nextdoor")
    assert await world.stranger.message(commit.format("mine", "empty")) == (
        403,
        "authorization denied: the image name empty:latest is in use, and a scoped client may not change it",
    )
    assert [image["RepoTags"] for image in await world.operator.json("GET /images/json")] == [["empty:latest"]]


async def test_a_smaller_role_in_a_scope(world: World) -> None:
    """The socket of a nested container may have a smaller role. It stays in the scope."""
    reader = Client(world.stranger.api, Principal("container:c", Role.READ, "container:a"))
    assert [one["Names"] for one in await reader.json("GET /containers/json")] == [["/mine"]]
    shape = await reader.json("GET /containers/mine/json")
    assert shape["Config"]["Env"] == ["PATH=***"]
    assert (await reader.json("GET /images/empty/json"))["Config"]["Env"] == ["PATH=***"]
    assert (await world.stranger.json("GET /containers/mine/json"))["Config"]["Env"] == ["PATH=/bin"]
    assert (await reader.ask("GET /containers/nextdoor/json"))[0] == 404
    for line in ("GET /swarm", "POST /containers/mine/stop", "GET /containers/mine/archive?path=/"):
        assert (await reader.ask(line))[0] == 403


async def test_the_label_of_the_socket(world: World) -> None:
    async def role(client: Client, labels: dict[str, str]) -> str:
        made = await client.json("POST /containers/create", {"Image": "empty", "Cmd": ["sleeper"], "Labels": labels})
        return world.daemon.registry.get(made["Id"]).record.socket_role

    assert await role(world.operator, {}) == "full"
    assert await role(world.operator, {"vch.docker-socket": "files"}) == "files"
    assert await role(world.stranger, {"vch.docker-socket": "full"}) == "scoped"
    assert await role(world.stranger, {"vch.docker-socket": "none"}) == "none"
    wrong = {"Image": "empty", "Labels": {"vch.docker-socket": "root"}}
    assert await world.operator.message("POST /containers/create", wrong) == (
        400,
        "invalid label vch.docker-socket: invalid role 'root': use none, read, files, registry, scoped or full",
    )


async def test_owners_outlive_the_daemon(nursery: trio.Nursery, tmp_path: Path) -> None:
    host = Host(nursery, echo=echo)
    host.network = RecordingHost()
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon:
            client = Client(daemon.router, _scoped("container:a"))
            await client.furnish("mine")
        async with engine(host, tmp_path) as daemon:
            again, other = Client(daemon.router, client.principal), Client(daemon.router, _scoped("container:b"))
            for line in ("GET /containers/mine/json", "GET /volumes/mine-volume", "GET /networks/mine-network"):
                assert (await again.ask(line))[0] == 200
                assert (await other.ask(line))[0] == 404
