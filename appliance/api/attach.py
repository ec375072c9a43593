"""Attach: a client's connection joined to a container's stdio."""

import trio

from appliance.api.backend import Container
from appliance.guest import Attachment
from appliance.http import HijackedStream
from appliance.streams import stdcopy
from appliance.streams.detach import DetachScanner

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


async def pump(
    stream: HijackedStream,
    container: Container,
    attachment: Attachment | None,
    *,
    stdin: bool,
    keys: bytes,
    past: list[bytes],
) -> None:
    """Move bytes until the run's output has ended, the client detached, or is gone."""
    tty = container.tty
    once = bool(container.record.config.get("StdinOnce")) and not tty
    async with trio.open_nursery() as nursery:

        async def take_input() -> None:
            scanner = DetachScanner(keys) if tty else None
            while data := await stream.receive():
                if scanner is not None:
                    data, detached = scanner.feed(data)
                    if data:
                        await container.stdin.write(data)
                    if detached:
                        nursery.cancel_scope.cancel()
                        return
                elif not await container.stdin.write(data):
                    # The process reads no more: what the client still sends has nowhere to go.
                    while await stream.receive():
                        pass
                    return
            if once:
                container.stdin.close()
            if attachment is None:
                nursery.cancel_scope.cancel()

        async def watch_input() -> None:
            """Without stdin the client's bytes mean nothing; its half close neither."""
            while await stream.receive():
                pass

        nursery.start_soon(take_input if stdin else watch_input)
        try:
            for data in past:
                await stream.send(data)
            if attachment is not None:
                async for number, data in attachment.output():
                    await stream.send(data if tty else stdcopy.header(number, len(data)) + data)
                stream.end()
                nursery.cancel_scope.cancel()
            elif not stdin:
                nursery.cancel_scope.cancel()
        except OSError:
            nursery.cancel_scope.cancel()
        finally:
            if attachment is not None:
                attachment.close()
