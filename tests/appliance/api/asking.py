"""Asks routes as a client does: raw bytes to a router, the status and the decoded body back."""

import json
from typing import Any

from appliance.api.router import Route, Router
from tests.appliance.http.wire import served


async def ask(routes: dict[tuple[str, str], Route], line: str, body: Any = None) -> tuple[int, Any]:
    """The status and the body of `line`, such as "GET /volumes". A JSON body that came whole is decoded, others are bytes.

    `body` is sent as JSON, or as it is if it is bytes.
    """
    router = Router()
    router.add_all(routes)
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    kind = "" if body is None else f"Content-Type: application/{'x-tar' if sent is body else 'json'}\r\n"
    head = f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {len(sent)}\r\n\r\n"
    async with served(router) as client:
        await client.send(head.encode() + sent)
        answer = await client.receive(1 << 24)
    start, _, content = answer.partition(b"\r\n\r\n")
    whole_json = b"Content-Type: application/json" in start and b"Content-Length" in start
    return int(start.split()[1]), json.loads(content) if whole_json else content
