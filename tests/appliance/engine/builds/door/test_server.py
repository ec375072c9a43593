"""The door over TLS: who comes in, what a flood costs, and a client that we did not write."""

import json
import os
import resource
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.engine.builds.contracts import DoorListener, DoorPlace, Uploads
from appliance.engine.builds.door import Door, server
from appliance.errors import Unavailable
from appliance.image.store import ImageStore
from tests.appliance.engine.builds.door.wire import image_in, opened_door, sha
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Tar
from tests.live.certificates import Authority
from tests.steps import cpu_of_steps, peak_rss

_TARS = [Tar().add(name, name.encode() * 10_000).bytes() for name in ("base", "top")]
# The whole flood takes half a minute.
_FLOOD = 10_000 if os.environ.get("VCH_TEST_BUILD_HOSTILE") else 400


class Keys:
    """The CA of a door, and the certificates of both ends."""

    def __init__(self, folder: Path) -> None:
        self._authority = Authority(folder)
        self._server = self._authority.sign("/CN=door", "127.0.0.1")
        self.client = self._authority.sign("/CN=buildkitd")

    def place(self, port: int = 0) -> DoorPlace:
        return DoorPlace("127.0.0.1", "", port, *self._server, self._authority.certificate)

    def context(self, *, with_key: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._authority.certificate)
        if with_key:
            context.load_cert_chain(*self.client)
        return context

    def folder_for_skopeo(self, folder: Path) -> Path:
        """containers-certs.d(5)"""
        folder.mkdir()
        for source, name in zip(
            (self._authority.certificate, *self.client), ("ca.crt", "c.cert", "c.key"), strict=True
        ):
            (folder / name).write_bytes(source.read_bytes())
        return folder


def check_types(door: Door) -> tuple[DoorListener, Uploads]:
    """mypy: the door is what the contracts say."""
    return door, door


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@asynccontextmanager
async def _listening(root: Path, keys: Keys) -> AsyncIterator[tuple[ImageStore, Door, int]]:
    async with opened_store(root) as store:
        door = Door(store)
        async with door.listen(keys.place()) as port:
            yield store, door, port


async def _ask(port: int, context: ssl.SSLContext, target: str = "/v2/") -> bytes:
    """The whole answer to a GET."""
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    async with trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True) as stream:
        await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return b"".join([bytes(piece) async for piece in stream])


async def test_only_a_client_with_a_key_and_only_during_a_build(tmp_path: Path, keys: Keys) -> None:
    async with _listening(tmp_path, keys) as (_store, door, port):
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await _ask(port, keys.context())
        async with door.open():
            found = await _ask(port, keys.context())
            assert found.startswith(b"HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\n")
            with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
                await _ask(port, keys.context(with_key=False))


async def test_the_port_can_be_chosen(tmp_path: Path, keys: Keys) -> None:
    async with _listening(tmp_path, keys) as (store, _door, port):
        with pytest.raises(Unavailable, match=f"port {port} of 127.0.0.1 for the builder: .*Address already in use"):
            async with Door(store).listen(keys.place(port)):
                pass
    async with opened_store(tmp_path) as store, Door(store).listen(keys.place(port)) as again:
        assert again == port


async def test_an_error_of_the_block_comes_by_itself(tmp_path: Path, keys: Keys) -> None:
    async with opened_store(tmp_path) as store:
        with pytest.raises(Unavailable, match="of the machine"):
            async with Door(store).listen(keys.place()):
                raise Unavailable("of the machine")


async def test_a_connection_from_the_build_before(tmp_path: Path) -> None:
    """BuildKit keeps its connections."""
    async with opened_door(tmp_path) as (_store, door, client):
        async with door.open():
            assert (await client.ask("GET", "/v2/")).status == 200
        assert (await client.ask("GET", "/v2/")).status == 403
        async with door.open():
            assert (await client.ask("GET", "/v2/")).status == 200


_OTHER_OPERATIONS = [
    ("GET", "/"),
    ("GET", "/v2/_catalog"),
    ("GET", "/v2/docker.io/library/app/tags/list"),
    ("DELETE", "/v2/docker.io/library/app/manifests/latest"),
    ("PUT", "/v2/docker.io/library/app/manifests/latest"),
    ("POST", "/v2/docker.io/library/app/blobs/uploads/"),
    ("PATCH", "/v2/build/UPLOAD/blobs/uploads/"),
    ("GET", "/v2/build/UPLOAD/blobs/uploads/x"),
    ("DELETE", "/v2/build/UPLOAD/manifests/latest"),
    ("GET", "/v2/build/UPLOAD/manifests/latest"),
    ("PUT", "/v2/build/UPLOAD/x/manifests/latest"),
    ("GET", "/v2/../../etc/blobs/sha256:0"),
    ("GET", "/v2/docker.io/library/app/blobs/sha256:../../state.db"),
    ("GET", "/v2/" + "a" * 300 + "/manifests/latest"),
    ("GET", "/v2/docker.io/library/app/manifests/" + "a" * 200),
]


async def test_there_are_no_other_operations(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        await image_in(store, _TARS, "app")
        async with door.open() as upload:
            for method, target in _OTHER_OPERATIONS:
                answer = await client.ask(method, target.replace("UPLOAD", upload.id))
                assert answer.status == 404, (method, target, answer)


async def test_a_fault_of_ours_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_door(tmp_path) as (_store, door, client):
        monkeypatch.delattr(door, "_images")
        async with door.open():
            fault = await client.ask("GET", "/v2/docker.io/library/app/manifests/latest")
        assert (fault.status, fault.message[:30]) == (500, "internal error: AttributeError")


async def test_connections_with_a_key_are_bounded(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 2)
    async with _listening(tmp_path, keys) as (_store, door, port), door.open():
        async with AsyncExitStack() as stack:
            for _ in range(2):
                tcp = await trio.open_tcp_stream("127.0.0.1", port)
                stream = trio.SSLStream(tcp, keys.context(), server_hostname="127.0.0.1", https_compatible=True)
                await stack.enter_async_context(stream)
                await stream.send_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some(12)) == b"HTTP/1.1 200"
            assert await _ask(port, keys.context()) == b""
        with trio.fail_after(20):
            while not await _ask(port, keys.context()):
                await trio.lowlevel.checkpoint()


async def test_a_flood_of_connections_without_a_key(tmp_path: Path, keys: Keys) -> None:
    """Any RUN can open connections to the door's port. The builder still gets in, at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with _listening(tmp_path, keys) as (_store, door, port), door.open(), AsyncExitStack() as stack:
            await _ask(port, keys.context())
            before = peak_rss()
            with cpu_of_steps() as steps:
                for number in range(_FLOOD):
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                    stack.push_async_callback(trio.aclose_forcefully, stream)
                    if number % 2:
                        await stream.send_all(b"\x16\x03\x01\x02\x00")
                assert (await _ask(port, keys.context())).startswith(b"HTTP/1.1 200")
            assert steps.longest < 0.05, steps
            assert peak_rss() - before < 64 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _skopeo(*arguments: str) -> None:
    done = await trio.run_process(
        ["skopeo", "--insecure-policy", *arguments], capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


async def test_skopeo_copies_an_image_out_and_in(tmp_path: Path, keys: Keys) -> None:
    certificates = keys.folder_for_skopeo(tmp_path / "certificates")
    copy = f"dir:{tmp_path}/copy"
    async with _listening(tmp_path, keys) as (store, door, port):
        record = await image_in(store, _TARS, "app")
        async with door.open() as upload:
            host = f"docker://127.0.0.1:{port}"
            await _skopeo("copy", "--src-cert-dir", str(certificates), f"{host}/docker.io/library/app:latest", copy)
            manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
            assert [layer["digest"] for layer in manifest["layers"]] == [sha(tar) for tar in _TARS]
            assert (tmp_path / "copy" / sha(_TARS[1])[7:]).read_bytes() == _TARS[1]
            await store.remove("app", lambda image_id, *, running: None, force=False)
            assert store.layers() == []
            # skopeo compresses the layers, and names their digests after it has sent them.
            await _skopeo("copy", "--dest-cert-dir", str(certificates), copy, f"{host}/build/{upload.id}:latest")
            assert (await upload.finish()).image_id == record.id == sha(config_of(_TARS))
        assert [b"".join(store.tar_of(sha(tar))) for tar in _TARS] == _TARS
