"""The door with its real client: buildkitd, natively, pulls local images from it and pushes what it builds to it."""

import functools
import gzip
import http.server
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from appliance.buildkit.errors import BuildkitError
from appliance.errors import Unavailable
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore
from protos.buildkit.v1 import control_pb2
from tests.appliance.engine.builds.door.wire import sha
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces
from tests.live import gotools
from tests.live.images import busybox_layer, layer_with
from tests.live.native_door import NativeDoor, native_door

pytestmark = pytest.mark.live

_EPOCH = "1700000000"
_DOCKERFILE = """
FROM only-here:1 AS made
RUN ["/bin/busybox", "sh", "-c", "echo built > /result"]
FROM only-here:1
COPY --from=made /result /result
COPY large /large
ENV A=1
"""


@contextmanager
def _context(folder: Path, dockerfile: str) -> Iterator[str]:
    """The URL of a build context: BuildKit fetches it without a session."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in (("Dockerfile", dockerfile.encode()), ("large", bytes(3 << 20))):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_600_000_000
            archive.addfile(member, io.BytesIO(content))
    (folder / "context.tar").write_bytes(out.getvalue())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/context.tar"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _base(store: ImageStore) -> ImageRecord:
    layers = [busybox_layer(), layer_with("below")]
    async with store.pins() as pins:
        for layer in layers:
            await store.add_new_layer(Pieces(layer), pins)
        record = await store.add_image(config_of(layers))
    await store.tag(record, parse_reference("only-here:1"), 1.0)
    return record


async def _build(native: NativeDoor, context: str, name: str, **attributes: str) -> dict[str, str]:
    attributes = {"context": context, "build-arg:SOURCE_DATE_EPOCH": _EPOCH, **attributes}
    request = control_pb2.Solve(
        ref=name.replace(":", "-"),
        frontend="dockerfile.v0",
        frontend_attributes=attributes,
        exporters=[control_pb2.Exporter(type="moby", attributes={"name": name})],
    )
    with trio.fail_after(120):
        answer = await native.solves.solve(request.SerializeToString())
    return dict(control_pb2.SolveAnswer.FromString(answer).exporter_answer)


def _image_by_buildctl(native: NativeDoor, context: str, out: Path) -> tuple[str, list[bytes]]:
    """ID and tars of the image that buildkitd exports to a file, and not to the door."""
    command = [str(gotools.buildctl()), "--addr", f"unix://{native.socket}", "build", "--frontend", "dockerfile.v0"]
    command += ["--opt", f"context={context}", "--opt", f"build-arg:SOURCE_DATE_EPOCH={_EPOCH}"]
    subprocess.run([*command, "--output", f"type=docker,dest={out}"], check=True, capture_output=True)
    with tarfile.open(out) as archive:

        def member(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (listed,) = json.loads(member("manifest.json"))
        blobs = [member(name) for name in listed["Layers"]]
        # A layer keeps the compression that buildkitd has it in.
        layers = [gzip.decompress(blob) if blob.startswith(b"\x1f\x8b") else blob for blob in blobs]
        return sha(member(listed["Config"])), layers


async def test_buildkitd_builds_from_local_images_into_the_store(tmp_path: Path) -> None:
    full = False

    async def admit(size: int) -> None:
        if full:
            raise Unavailable(f"storage quota exceeded: no room for {size} bytes")

    async with opened_store(tmp_path, admit=admit) as store:
        base = await _base(store)
        async with native_door(tmp_path, store) as native:
            with _context(tmp_path, _DOCKERFILE) as context:
                answer = await _build(native, context, "made:1")
                record = store.get("made:1")
                config = store.config(record.id)
                assert answer["containerimage.config.digest"] == answer["containerimage.digest"] == record.id
                assert answer["image.name"] == "docker.io/library/made:1"
                # The layers of the base, and two that were pushed.
                assert config.diff_ids[:2] == store.config(base.id).diff_ids
                contents = []
                for diff_id in config.diff_ids[2:]:
                    with tarfile.open(fileobj=io.BytesIO(b"".join(store.tar_of(diff_id)))) as layer:
                        contents += layer.getnames()
                assert contents == ["result", "large"]
                assert "A=1" in (config.config.env or [])
                # The same again: all is cached, and nothing is sent.
                again = await _build(native, context, "made:2")
                assert again["containerimage.digest"] == record.id
                assert sorted(record.references) == ["docker.io/library/made:1", "docker.io/library/made:2"]
                # The image of a build is the base of another.
                with _context(tmp_path, "FROM made:1\nENV B=2\n") as second:
                    await _build(native, second, "child:1")
                assert store.config(store.get("child:1").id).diff_ids == config.diff_ids
                # What the same buildkitd exports by itself.
                text = _DOCKERFILE.replace("only-here:1", f"{native.host}/docker.io/library/only-here:1")
                with _context(tmp_path, text) as named:
                    async with native.door.open():
                        exported = await trio.to_thread.run_sync(_image_by_buildctl, native, named, tmp_path / "x.tar")
                layers = [b"".join(store.tar_of(diff_id)) for diff_id in config.diff_ids]
                assert exported == (record.id, layers)
                # buildkitd does not repeat what the door refuses, and its client sees why.
                full = True
                with _context(tmp_path, "FROM scratch\nCOPY large /other\n") as refused:
                    with pytest.raises(BuildkitError, match="storage quota exceeded: no room for 3145728 bytes"):
                        await _build(native, refused, "refused:1")
        # Nothing is left of the uploads.
        assert len(store.layers()) == 4
