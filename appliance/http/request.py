"""One request, as a handler reads it."""

import re
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from appliance.errors import InvalidParameter
from appliance.http.connection import Connection, Disconnected
from appliance.http.head import Head
from appliance.roles import LOCAL, Principal
from appliance.streams.json_values import MAX_VALUES, has_too_many_values

MAX_JSON = 8 << 20
_MAX_QUERY_FIELDS = 1000
_INTEGER = re.compile(r"[+-]?[0-9]+")
_MAX_DIGITS = 100
_FALSE = ("", "0", "no", "false", "none")


class Request:
    """The router fills `path` with the parts of the path that the route names, and `version` with the API version.

    `principal` is the client that sends the request.
    """

    def __init__(self, connection: Connection, head: Head, principal: Principal = LOCAL) -> None:
        self._connection = connection
        self.method = head.method
        self.target = head.target
        self.headers = head.headers
        self.raw_path, _, self._raw_query = head.target.partition("?")
        self._query: dict[str, list[str]] | None = None
        self.principal = principal
        self.path: dict[str, str] = {}
        self.version = (0, 0)

    @property
    def query(self) -> dict[str, list[str]]:
        """All values of all query parameters. InvalidParameter for a malformed query."""
        if self._query is None:
            try:
                self._query = urllib.parse.parse_qs(
                    self._raw_query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS
                )
            except ValueError as error:
                raise InvalidParameter(f"malformed query: {error}") from error
        return self._query

    def text(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's idea of a boolean (moby httputils.BoolValue)."""
        if name not in self.query:
            return default
        return self.text(name).strip().lower() not in _FALSE

    def number(self, name: str) -> int | None:
        """An integer of 64 bits, None when the parameter is absent or empty. InvalidParameter when it is not such an integer."""
        if not (text := self.text(name)):
            return None
        # Python's int() also takes blanks, underscores, and the digits of other scripts.
        if not _INTEGER.fullmatch(text):
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
        if len(text) > _MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": value out of range')
        return int(text)

    async def json(self) -> Any:
        """The body as JSON, None when there is no body. InvalidParameter for any other body."""
        body = await self._connection.read_body(MAX_JSON)
        if not body:
            return None
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/json":
            raise InvalidParameter(
                f'unsupported Content-Type header ({kind}): must be "application/json"'
                if kind
                else "malformed Content-Type header (): mime: no media type"
            )
        if has_too_many_values(body):
            raise InvalidParameter(f"invalid JSON: more than {MAX_VALUES} values")
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"invalid JSON: {error}") from error

    def body(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces, as they arrive. Its size has no bound: for archives."""
        return self._connection.stream_body()

    @asynccontextmanager
    async def while_connected(self) -> AsyncIterator[None]:
        """Cancel the block when the client closes the connection; for answers that may wait for long."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            closed = False

            async def watch() -> None:
                nonlocal closed
                await self._connection.wait_closed()
                closed = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                yield
            except Exception as error:
                # The nursery would put it into a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if closed:
            raise Disconnected
