"""A session that vchd serves to BuildKit in place of a client: the context and the credentials of a classic build.

BuildKit calls services in a session: its bytes are the messages of a call of Control/Session, in which it is the client.
"""

import asyncio
import tarfile
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import trio
from google.protobuf.message import DecodeError

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.channel import BuildkitChannel, RawCall
from appliance.buildkit.forward import CONTROL
from appliance.buildkit.grpc_connection import GrpcConnection
from appliance.buildkit.server_call import ServerCall
from appliance.errors import NotFound, ProtocolError, Unsupported
from appliance.registry import Credentials
from protos.buildkit.v1.control_pb2 import Bytes
from protos.buildkit.v1.session_pb2 import CredentialsAnswer, CredentialsRequest

_CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
_PULL = "/moby.upload.v1.Upload/Pull"
_HEALTH = "/grpc.health.v1.Health/Check"
_METHODS = (_CREDENTIALS, _PULL, _HEALTH)
_SERVING = b"\x08\x01"
_URL_PATH = "urlpath"
_PIECE = 1 << 20
_BLOCK = 512
UPLOAD_HOST = "http://buildkit-session"
"""A context whose URL begins with this is an upload of the session (source/http of buildkit)."""


class HostedSession:
    """`uploads` are files by the path of their URL ("/name"), `credentials` those of registries by host."""

    def __init__(self, budget: ByteBudget, credentials: Mapping[str, Credentials], uploads: Mapping[str, Path]) -> None:
        self.id = uuid.uuid4().hex
        self._budget = budget
        self._credentials = credentials
        self._uploads = uploads

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        channel: BuildkitChannel,
        budget: ByteBudget,
        *,
        credentials: Mapping[str, Credentials],
        uploads: Mapping[str, Path],
    ) -> AsyncIterator["HostedSession"]:
        """A session for a block. It ends early when buildkitd ends; builds of the session fail then, and say why.

        Sessions share the memory of `budget`.
        """
        session = cls(budget, credentials, uploads)

        async def start() -> "asyncio.Task[None]":
            return asyncio.create_task(session._run(channel))

        task = await channel.loop.run(start)

        async def stop() -> None:
            task.cancel()
            # It has failed if buildkitd is gone. The Solve says so.
            await asyncio.gather(task, return_exceptions=True)

        try:
            yield session
        finally:
            with trio.CancelScope(shield=True):
                await channel.loop.run(stop)

    async def _run(self, channel: BuildkitChannel) -> None:
        metadata = [
            ("x-docker-expose-session-uuid", self.id),
            ("x-docker-expose-session-name", "vchd"),
            ("x-docker-expose-session-sharedkey", ""),
            *(("x-docker-expose-session-grpc-method", method) for method in _METHODS),
        ]
        call = channel.start(CONTROL + "Session", metadata)
        wire = _CallWire(call)
        await GrpcConnection(wire, wire, self._serve, self._budget).run()

    async def _serve(self, call: ServerCall) -> None:
        match call.path:
            case path if path == _CREDENTIALS:
                await self._serve_credentials(call)
            case path if path == _PULL:
                await self._serve_upload(call)
            case path if path == _HEALTH:
                await call.receive()
                await call.send(_SERVING)
            case _:
                # BuildKit fetches tokens itself if the session cannot.
                raise Unsupported(f"unknown method {call.path}")

    async def _serve_credentials(self, call: ServerCall) -> None:
        try:
            asked = CredentialsRequest.FromString(await call.receive() or b"")
        except DecodeError as error:
            raise ProtocolError("malformed request for credentials") from error
        known = self._credentials.get(asked.host, Credentials())
        # An identity token is a secret without a user (buildkit session/auth/authprovider).
        user, secret = ("", known.identity_token) if known.identity_token else (known.username, known.password)
        await call.send(CredentialsAnswer(user=user, secret=secret).SerializeToString())

    async def _serve_upload(self, call: ServerCall) -> None:
        name = next((value for key, value in call.metadata() if key == _URL_PATH), "")
        path = self._uploads.get(name) if isinstance(name, str) else None
        if path is None:
            raise NotFound(f"no upload {name!r}")
        with open(path, "rb") as file:
            start = await asyncio.to_thread(file.read, _BLOCK)
            await call.send(Bytes(data=_preface(start) + start).SerializeToString())
            while data := await asyncio.to_thread(file.read, _PIECE):
                await call.send(Bytes(data=data).SerializeToString())


def _preface(start: bytes) -> bytes:
    """What goes in front of a tar whose first header only describes the next one.

    BuildKit takes the first KiB of a tar for a Dockerfile if no member is in it (dockerui/context.go isArchive).
    """
    if start[257:262] != b"ustar" or start[156:157] not in (b"x", b"g", b"L", b"K"):
        return b""
    root = tarfile.TarInfo("./")
    root.type, root.mode = tarfile.DIRTYPE, 0o755
    return root.tobuf(tarfile.USTAR_FORMAT)


class _CallWire:
    """A call of Control/Session as the two ends of a connection."""

    def __init__(self, call: RawCall) -> None:
        self._call = call
        # The message that is read, and how much of it was.
        self._message, self._taken = b"", 0
        self._waiting = bytearray()

    async def read(self, n: int) -> bytes:
        """See grpc_connection.Reader."""
        while self._taken == len(self._message):
            try:
                message = await self._call.read()
            except grpc.aio.AioRpcError as error:
                raise ConnectionError(error.details()) from error
            if message is grpc.aio.EOF:
                return b""
            try:
                self._message, self._taken = Bytes.FromString(message).data, 0
            except DecodeError as error:
                raise ConnectionError("malformed bytes of a session") from error
        data = self._message[self._taken : self._taken + n]
        self._taken += len(data)
        return data

    def write(self, data: bytes) -> None:
        """See grpc_connection.Writer."""
        self._waiting += data

    async def drain(self) -> None:
        """See grpc_connection.Writer."""
        data = bytes(self._waiting)
        self._waiting.clear()
        try:
            await self._call.write(Bytes(data=data).SerializeToString())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise ConnectionError("the session was closed") from error

    def close(self) -> None:
        """See grpc_connection.Writer."""
        self._call.cancel()
