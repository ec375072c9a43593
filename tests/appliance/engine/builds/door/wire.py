"""A door over a store, and a client of it that sends raw bytes."""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.engine.builds.door import Door
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore
from tests.appliance.http.wire import Client, served
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        (error,) = json.loads(self.body)["errors"]
        return str(error["message"])


class DoorClient:
    """One connection to the door."""

    def __init__(self, client: Client) -> None:
        self.wire = client

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        await self.send(method, target, len(body), **headers)
        await self.wire.send(body)
        return await self.answer(head_only=method == "HEAD")

    async def send(self, method: str, target: str, length: int, **headers: str) -> None:
        """Send a head. A keyword `content_type` is the header Content-Type."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.wire.send(
            f"{method} {target} HTTP/1.1\r\nHost: vch.internal\r\nContent-Length: {length}\r\n{lines}\r\n".encode()
        )

    async def answer(self, begun: bytes = b"", *, head_only: bool = False) -> Answer:
        """The next answer; `begun` is what the test has received of it."""
        received = begun
        while b"\r\n\r\n" not in received:
            with trio.fail_after(20):
                piece = await self.wire.socket.recv(1 << 16)
            assert piece, f"the connection ended: {received!r}"
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        line, *rest = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in rest)}
        length = 0 if head_only else int(headers.get("content-length", "0"))
        return Answer(int(line.split()[1]), headers, body + await self.wire.receive(length - len(body)))

    async def push_blob(self, upload: str, blob: bytes) -> Answer:
        """As containerd's pusher: HEAD, POST, PUT. The last answer."""
        known = await self.ask("HEAD", f"/v2/build/{upload}/blobs/{sha(blob)}")
        if known.status == 200:
            return known
        started = await self.ask("POST", f"/v2/build/{upload}/blobs/uploads/")
        assert started.status == 202, started
        return await self.ask("PUT", f"{started.headers['location']}?digest={sha(blob)}", blob)

    async def push_image(self, upload: str, config: bytes, blobs: list[bytes]) -> Answer:
        """Push an image; the answer to its manifest."""
        for blob in (*blobs, config):
            pushed = await self.push_blob(upload, blob)
            assert pushed.status in (200, 201), pushed
        return await self.put_manifest(upload, manifest(config, blobs))

    async def put_manifest(self, upload: str, content: bytes, content_type: str = MANIFEST) -> Answer:
        return await self.ask("PUT", f"/v2/build/{upload}/manifests/latest", content, content_type=content_type)


def manifest(config: bytes, blobs: list[bytes]) -> bytes:
    described = [{"mediaType": "x", "digest": sha(blob), "size": len(blob)} for blob in blobs]
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"digest": sha(config), "size": len(config)}}
    return json.dumps({**document, "layers": described}).encode()


async def image_in(store: ImageStore, tars: list[bytes], *names: str) -> ImageRecord:
    """An image in the store."""
    async with store.pins() as pins:
        for tar in tars:
            await store.add_new_layer(Pieces(tar), pins)
        record = await store.add_image(config_of(tars))
    for name in names:
        await store.tag(record, parse_reference(name).with_default_tag(), 1.0)
    return record


@asynccontextmanager
async def opened_door(
    root: Path, room: Callable[[], Awaitable[int | None]] | None = None
) -> AsyncIterator[tuple[ImageStore, Door, DoorClient]]:
    """A store below `root`, its door, and a connection to it. `room` is what the quota has left."""
    async with opened_store(root, room=room) as store:
        door = Door(store)
        async with served(door.answer) as client:
            yield store, door, DoorClient(client)
