"""How `vch` finds out whether an appliance serves its API: with a client certificate, and without."""

import ssl
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from appliance.cli.reach import client_of, known_address, wait_served
from appliance.provision.certificates import Authority


async def _serve(context: ssl.SSLContext, task_status: "trio.TaskStatus[int]" = trio.TASK_STATUS_IGNORED) -> None:
    """Answers every request with 200."""

    async def answer(plain: trio.SocketStream) -> None:
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        try:
            if await stream.receive_some(65536):
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
            await stream.aclose()
        except (trio.BrokenResourceError, ssl.SSLError):
            await trio.aclose_forcefully(stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        task_status.started(listener.socket.getsockname()[1])
        await trio.serve_listeners(answer, [listener], handler_nursery=nursery)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `vch create` leaves: the CA, the API's certificate, an operator's."""
    authority = Authority(tmp_path / "prod", "prod")
    for names, made in (
        (("server.pem", "server-key.pem"), authority.sign_server(["docker.example"])),
        (("cert.pem", "key.pem"), authority.sign_client("operator")),
    ):
        for name, text in zip(names, made, strict=True):
            (tmp_path / "prod" / name).write_text(text)
    return tmp_path / "prod"


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    return context


@pytest.mark.parametrize("who", ["operator", "nobody"])
async def test_an_api_that_answers(folder: Path, tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"tls-cert": (folder / "server.pem").read_text()}
    async with trio.open_nursery() as nursery:
        port = await nursery.start(_serve, _context(folder))
        monkeypatch.setattr("appliance.cli.reach.API_PORT", port)
        with trio.fail_after(20):
            await wait_served("127.0.0.1", values, folder if who == "operator" else tmp_path / "none")
        nursery.cancel_scope.cancel()


async def test_another_certificate_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Authority(tmp_path / "other", "prod").sign_server(["docker.example"])[0]
    async with trio.open_nursery() as nursery:
        port = await nursery.start(_serve, _context(folder))
        monkeypatch.setattr("appliance.cli.reach.API_PORT", port)
        async with client_of("127.0.0.1", {"tls-cert": other}, folder) as client:
            with pytest.raises((httpx.HTTPError, OSError)):
                await client.get("/_ping")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, ""),
        ({"public-address": "dhcp"}, ""),
        ({"public-address": "192.0.2.1/24"}, "192.0.2.1"),
        ({"public-address": "192.0.2.1/24", "interfaces": "public,bridge,client"}, ""),
        ({"client-address": "192.0.2.2/24", "interfaces": "client,public,bridge"}, "192.0.2.2"),
    ],
)
def test_the_address_in_the_properties(values: dict[str, str], address: str) -> None:
    assert known_address(values) == address
