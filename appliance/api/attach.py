"""Connects a hijacked connection with the stdio of a container or an exec."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from appliance.guest import Attachment, StdinPipe
from appliance.http import HijackedStream, WebSocketStream
from appliance.streams import stdcopy
from appliance.streams.detach import DetachScanner

RAW = "application/vnd.docker.raw-stream"
_PAUSE_AFTER_HEAD = 0.01
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


async def pump(
    stream: HijackedStream | WebSocketStream,
    attachment: Attachment | None,
    *,
    tty: bool,
    stdin: StdinPipe | None,
    closes_stdin: bool,
    keys: bytes,
    past: AsyncGenerator[bytes, None] | None,
    framed: bool,
) -> None:
    """Copy bytes until the output of the process has ended, or the client detaches or disconnects.

    `attachment` is the live output, `past` the older output that goes first. The client's bytes go to `stdin`; with
    `closes_stdin` the end of the client's bytes closes it, else that end detaches the client. `tty`: look for the detach `keys`.
    `framed`: send output with Docker's stdcopy headers.
    """
    async with trio.open_nursery() as nursery:

        async def take_input(stdin: StdinPipe) -> None:
            scanner = DetachScanner(keys) if tty else None
            open_end = True
            while data := await stream.receive():
                if scanner is not None:
                    data, detached = scanner.feed(data)
                    if data:
                        await stdin.write(data)
                    if detached:
                        nursery.cancel_scope.cancel()
                        return
                elif open_end:
                    # When the process has closed its stdin, drop what the client still sends.
                    open_end = await stdin.write(data)
            if closes_stdin and open_end:
                stdin.close()
            if attachment is None or not closes_stdin:
                # As moby's container/stream/attach.go: the process may read on, so this client gets no more output.
                nursery.cancel_scope.cancel()

        async def watch_input() -> None:
            """Without stdin, drop the client's bytes and ignore the end of them."""
            while await stream.receive():
                pass

        try:
            if past is not None:
                # docker-py loses bytes that arrive together with the head: its buffer takes them, and it reads from the socket.
                await trio.sleep(_PAUSE_AFTER_HEAD)
                async with aclosing(past) as older:
                    async for data in older:
                        await stream.send(data)
            # Now, since the end of the input may detach the client.
            if stdin is not None:
                nursery.start_soon(take_input, stdin)
            else:
                nursery.start_soon(watch_input)
            if attachment is not None:
                async with aclosing(attachment.output()) as output:
                    async for number, data in output:
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
