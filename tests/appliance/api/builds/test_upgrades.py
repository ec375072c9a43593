"""POST /grpc and /session: the handshake byte for byte, and what the engine gets."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.api.builds.upgrades import UpgradeRoutes
from appliance.api.router import Router
from appliance.errors import Unavailable
from appliance.roles import Principal, Role
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import COMMON, served

UPGRADE = "Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + COMMON + b"\r\n"


class Builds:
    """Echoes what comes on a connection, after what it got with it."""

    def __init__(self) -> None:
        self.open = 0
        self.headers: Mapping[str, str] = {}
        self.error = ""

    async def carry(self, connection: socket.socket, early: bytes) -> None:
        with trio.socket.from_stdlib_socket(connection) as sock:
            while early:
                await sock.send(b"<" + early + b">")
                early = await sock.recv(100)

    @asynccontextmanager
    async def grpc(self) -> AsyncIterator["Builds"]:
        if self.error:
            raise Unavailable(self.error)
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    @asynccontextmanager
    async def session(self, headers: Mapping[str, str]) -> AsyncIterator["Builds"]:
        self.headers = headers
        async with self.grpc():
            yield self


@pytest.mark.parametrize("path", ["/grpc", "/session", "/v1.47/grpc", "/v1.24/session"])
async def test_the_connection_goes_to_the_engine_with_all_bytes_of_the_client(path: str) -> None:
    builds = Builds()
    router = Router()
    router.add_all(UpgradeRoutes(builds).routes())
    async with served(router) as client:
        await client.send(f"POST {path} HTTP/1.1\r\n{UPGRADE}\r\nearly".encode())
        await client.expect(SWITCHED + b"<early>")
        assert builds.open == 1
        await client.send(b"late")
        await client.expect(b"<late>")
    assert builds.open == 0


async def test_a_connection_that_begins_with_http2_goes_to_the_engine_with_its_preface() -> None:
    builds = Builds()
    router = Router()
    router.add_all(UpgradeRoutes(builds).routes())
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with served(router) as client:
        await client.send(preface)
        await client.expect(b"<" + preface + b">")
        assert builds.open == 1
        await client.send(b"late")
        await client.expect(b"<late>")
    assert builds.open == 0


@pytest.mark.parametrize("role", [Role.READ, Role.REGISTRY, Role.NONE])
async def test_a_connection_that_begins_with_http2_needs_the_role_of_builds(role: Role) -> None:
    router = Router()
    router.add_all(UpgradeRoutes(Builds()).routes())
    async with served(router, Principal("x", role)) as client:
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await client.receive(1 << 16)).startswith(b"HTTP/1.1 403 ")


async def test_a_session_is_described_by_all_of_its_headers() -> None:
    builds = Builds()
    router = Router()
    router.add_all(UpgradeRoutes(builds).routes())
    described = "".join(
        f"X-Docker-Expose-Session-{line}\r\n"
        for line in ("Uuid: u", "Grpc-Method: /a", "Grpc-Method: /b", "Sharedkey: k")
    )
    async with served(router) as client:
        await client.send(f"POST /session HTTP/1.1\r\n{UPGRADE}{described}X-Other: 1\r\n\r\nx".encode())
        await client.expect(SWITCHED + b"<x>")
    prefix = "x-docker-expose-session-"
    assert builds.headers == {f"{prefix}uuid": "u", f"{prefix}grpc-method": "/a,/b", f"{prefix}sharedkey": "k"}


@pytest.mark.parametrize("path", ["/grpc", "/session"])
async def test_requests_that_are_no_upgrade_are_refused(path: str) -> None:
    routes = UpgradeRoutes(Builds()).routes()
    assert await ask(routes, f"POST {path}") == (400, {"message": "no upgrade proto in request"})
    router = Router()
    router.add_all(routes)
    async with served(router) as client:
        await client.send(f"POST {path} HTTP/1.1\r\n{UPGRADE.replace('h2c', 'tcp')}\r\n".encode())
        assert b"protocol tcp not supported" in await client.socket.recv(1 << 16)


@pytest.mark.parametrize("path", ["/grpc", "/session"])
async def test_a_builder_that_cannot_be_started_is_reported_before_the_upgrade(path: str) -> None:
    builds = Builds()
    builds.error = "the builder image is not here"
    router = Router()
    router.add_all(UpgradeRoutes(builds).routes())
    async with served(router) as client:
        await client.send(f"POST {path} HTTP/1.1\r\n{UPGRADE}\r\n".encode())
        answer = await client.socket.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the builder image is not here" in answer
