"""The connections and the routes of the door (OCI distribution specification 1.1, as far as BuildKit needs it)."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial

import trio

from appliance.engine.builds.contracts import DoorPlace
from appliance.engine.builds.door.answers import answer_error, content_digest
from appliance.engine.builds.door.blobs import LocalImages
from appliance.engine.builds.door.bodies import BlobBody
from appliance.engine.builds.door.uploads import BuildUpload, DoorUploads
from appliance.errors import Forbidden, InvalidParameter, NotFound, Unavailable, VchError, leaves, unforeseen
from appliance.http import (
    ClientLimits,
    DatedHeaders,
    Disconnected,
    Readiness,
    Reply,
    Request,
    TlsFront,
    accept_connections,
    serve_connection,
)
from appliance.http.listener import open_tcp_listener
from appliance.image.store import ImageRecord, ImageStore

log = logging.getLogger(__name__)

_HEADERS = b"Docker-Distribution-Api-Version: registry/2.0\r\n"
# Connections with a certificate. (TlsFront bounds those that have not shown one yet; any RUN may open such connections.)
_MOST_CONNECTIONS = 256
# buildkitd keeps the connections of each push for some minutes after it.
_MOST_IDLE = 32

_NAME = r"[a-zA-Z0-9._/-]{1,255}"
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_MANIFEST = re.compile(rf"/v2/({_NAME})/manifests/(sha256:[a-f0-9]{{64}}|[\w][\w.-]{{0,127}})", re.ASCII)
_BLOB = re.compile(rf"/v2/({_NAME})/blobs/({_DIGEST.pattern})")
_UPLOAD = re.compile(r"/v2/build/([a-z0-9]{1,64})/blobs/uploads/([a-z0-9]{0,64})")
_BUILD = re.compile(r"build/([a-z0-9]{1,64})")


class Door:
    """The registry that buildkitd sees. Requests are answered only while an upload is open (contracts.Uploads)."""

    def __init__(self, store: ImageStore) -> None:
        self._images = LocalImages(store)
        self._uploads = DoorUploads(store)
        self._served = 0

    def open(self) -> AbstractAsyncContextManager[BuildUpload]:
        """See contracts.Uploads."""
        return self._uploads.open()

    def manifest_digest(self, record: ImageRecord) -> str:
        """The digest of the manifest that the door serves for an image. May block. NotFound when the image cannot be served."""
        return self._images.manifest_digest(record)

    @asynccontextmanager
    async def listen(self, place: DoorPlace) -> AsyncIterator[int]:
        """See contracts.DoorListener. InvalidParameter when a file of the place is no certificate or key."""
        front = TlsFront(place.certificate, place.key, place.authority)
        try:
            listener = await open_tcp_listener(place.address, place.port, place.device)
        except OSError as error:
            raise Unavailable(f"port {place.port} of {place.address} for the builder: {error}") from error
        readiness, limits = Readiness(), ClientLimits(_MOST_IDLE)
        serve = partial(
            serve_connection,
            handler=self.answer,
            common_headers=DatedHeaders(_HEADERS),
            readiness=readiness,
            limits=limits,
        )

        async def serve_secured(connection: trio.socket.SocketType) -> None:
            if not self._uploads.any_open:
                return
            async with front.opened(connection) as found:
                if found is None or self._served >= _MOST_CONNECTIONS:
                    return
                self._served += 1
                try:
                    await serve(found[0])
                finally:
                    self._served -= 1

        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            nursery.start_soon(limits.run)
            nursery.start_soon(partial(accept_connections, listener, serve_secured, nursery, name="the door of builds"))
            try:
                yield listener.getsockname()[1]
            except Exception as error:
                # The nursery would put it into a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def answer(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        try:
            if not self._uploads.any_open:
                raise Forbidden("no build is under way")
            await self._route(request, reply)
        except Exception as error:
            causes = leaves(error)
            if reply.started or any(isinstance(cause, Disconnected) for cause in causes):
                # A body that breaks off breaks the conversion that reads it.
                raise Disconnected from error
            found = next((cause for cause in causes if isinstance(cause, VchError)), None)
            if found is None:
                log.exception("%s %s failed", request.method, request.raw_path)
                found = unforeseen(error)
            await answer_error(reply, found)

    async def _route(self, request: Request, reply: Reply) -> None:
        path, method = request.raw_path, request.method
        reads = method in ("GET", "HEAD")
        if path in ("/v2/", "/v2") and reads:
            await reply.json(200, {})
        elif match := _UPLOAD.fullmatch(path):
            upload = self._uploads.get(match[1])
            with upload.receiving():
                await self._answer_upload(request, reply, upload, match[2])
        elif match := _MANIFEST.fullmatch(path):
            if (build := _BUILD.fullmatch(match[1])) is None:
                _allow(reads)
                await self._images.answer_manifest(reply, match[1], match[2])
                return
            upload = self._uploads.get(build[1])
            with upload.receiving():
                await self._answer_pushed(request, reply, upload, match[2])
        elif match := _BLOB.fullmatch(path):
            _allow(reads)
            if (build := _BUILD.fullmatch(match[1])) is not None and method == "HEAD":
                upload = self._uploads.get(build[1])
                with upload.receiving():
                    await _answer_known(reply, upload, match[2])
                return
            await self._images.answer_blob(reply, match[2], request.headers.get("range", ""))
        else:
            raise NotFound("page not found")

    async def _answer_upload(self, request: Request, reply: Reply, upload: BuildUpload, session: str) -> None:
        """POST starts the upload of a blob, PUT has its bytes, or ends an upload whose bytes came by PATCH."""
        if request.method == "POST" and not session:
            mounted = request.text("mount")
            if _DIGEST.fullmatch(mounted) and await upload.find(mounted) is not None:
                await reply.empty(201, _blob_headers(upload, mounted))
                return
            session = upload.start()
            await reply.empty(202, _session_headers(upload, session, 0))
            return
        _allow(request.method in ("PUT", "PATCH") and bool(session))
        async with aclosing(request.body()) as pieces:
            body = BlobBody(pieces)
            if request.method == "PATCH":
                await upload.patch(session, body)
                await reply.empty(202, _session_headers(upload, session, body.size))
                return
            digest = request.text("digest")
            if not _DIGEST.fullmatch(digest):
                raise InvalidParameter("digest: sha256 and 64 hexadecimal digits are expected")
            await upload.put(session, digest, body)
            await reply.empty(201, _blob_headers(upload, digest))

    @staticmethod
    async def _answer_pushed(request: Request, reply: Reply, upload: BuildUpload, wanted: str) -> None:
        """The manifest of the image that a build pushes."""
        if request.method == "PUT":
            media_type = request.headers.get("content-type", "")
            async with aclosing(request.body()) as pieces:
                digest = await upload.put_manifest(wanted, media_type, BlobBody(pieces))
            location = f"Location: /v2/build/{upload.id}/manifests/{digest}\r\n".encode()
            await reply.empty(201, location + content_digest(digest))
            return
        _allow(request.method in ("GET", "HEAD"))
        pushed = upload.manifest()
        if pushed is None or wanted not in ("latest", pushed[0]):
            raise NotFound(f"manifest unknown: {wanted}")
        digest, media_type, content = pushed
        await reply.raw(200, media_type.encode("latin-1"), content, content_digest(digest))


def _allow(allowed: bool) -> None:
    if not allowed:
        raise NotFound("the door has no such operation")


async def _answer_known(reply: Reply, upload: BuildUpload, digest: str) -> None:
    """HEAD of a blob that a build is about to push. buildkitd skips what is here."""
    size = await upload.find(digest)
    if size is None:
        raise NotFound(f"blob unknown to registry: {digest}")
    await reply.start("application/octet-stream", 200, content_digest(digest), length=size)


def _session_headers(upload: BuildUpload, session: str, received: int) -> bytes:
    return (
        f"Location: /v2/build/{upload.id}/blobs/uploads/{session}\r\n"
        f"Docker-Upload-UUID: {session}\r\nRange: 0-{max(0, received - 1)}\r\n"
    ).encode()


def _blob_headers(upload: BuildUpload, digest: str) -> bytes:
    return f"Location: /v2/build/{upload.id}/blobs/{digest}\r\n".encode() + content_digest(digest)
