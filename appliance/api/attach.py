"""Attach: a client's connection joined to a container's stdio."""

import trio

from appliance.guest import Attachment, StdinPipe
from appliance.http import HijackedStream, WebSocketStream
from appliance.streams import stdcopy
from appliance.streams.detach import DetachScanner

RAW = "application/vnd.docker.raw-stream"
_HEAD_SECONDS = 0.01
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


async def pump(
    stream: HijackedStream | WebSocketStream,
    attachment: Attachment | None,
    *,
    tty: bool,
    stdin: StdinPipe | None,
    closes_stdin: bool,
    keys: bytes,
    past: list[bytes],
    framed: bool,
) -> None:
    """Move bytes until the run's output has ended, the client detached, or is gone.

    `stdin` takes what the client sends, and its end too if it `closes_stdin`; `past` is sent first.
    `framed`: output is sent with Docker's frames.
    """
    async with trio.open_nursery() as nursery:

        async def take_input(stdin: StdinPipe) -> None:
            scanner = DetachScanner(keys) if tty else None
            while data := await stream.receive():
                if scanner is not None:
                    data, detached = scanner.feed(data)
                    if data:
                        await stdin.write(data)
                    if detached:
                        nursery.cancel_scope.cancel()
                        return
                elif not await stdin.write(data):
                    # The process reads no more: what the client still sends has nowhere to go.
                    while await stream.receive():
                        pass
                    return
            if closes_stdin:
                stdin.close()
            if attachment is None:
                nursery.cancel_scope.cancel()

        async def watch_input() -> None:
            """Without stdin the client's bytes mean nothing; its half close neither."""
            while await stream.receive():
                pass

        if stdin is not None:
            nursery.start_soon(take_input, stdin)
        else:
            nursery.start_soon(watch_input)
        try:
            if past:
                # docker-py loses what comes together with the head: it reads that through a buffer, the rest past it.
                await trio.sleep(_HEAD_SECONDS)
            for data in past:
                await stream.send(data)
            if attachment is not None:
                async for number, data in attachment.output():
                    await stream.send(stdcopy.header(number, len(data)) + data if framed else data)
                await stream.end()
                nursery.cancel_scope.cancel()
            elif stdin is None:
                nursery.cancel_scope.cancel()
        except OSError:
            nursery.cancel_scope.cancel()
        finally:
            if attachment is not None:
                attachment.close()
