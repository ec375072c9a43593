"""The server on a link: each session of the link gets an HTTP/2 connection of its own."""

from collections.abc import Callable

import trio

from tether.link import Data, Event, Opened, Reset
from tether.rpc.call import Method
from tether.rpc.server import Session
from tether.transport import Line, LinkedLine


async def serve_link(
    line: Line,
    methods: dict[bytes, Method],
    make_id: Callable[[], int],
    *,
    on_session: Callable[[], None] = lambda: None,
    on_linked: Callable[[LinkedLine], None] = lambda _: None,
) -> None:
    """Serve gRPC to the client at the other end of the line, session after session, until the line is closed.

    `on_linked` receives the LinkedLine that runs the link, to attach a fast path to it.
    """
    async with trio.open_nursery() as nursery:
        session: Session | None = None

        def pump() -> None:
            # The link accepts only what its window allows; the rest waits in the HTTP/2 connection, within its own windows.
            while session is not None and (room := linked.connection.send_room()):
                data = pending[0] or session.data_to_send(min(room, 256 << 10))
                if not data:
                    return
                taken = linked.connection.send(data)
                pending[0] = data[taken:]

        def flush() -> None:
            if session is not None:
                pump()
                linked.flush()

        def on_event(event: Event) -> None:
            nonlocal session
            match event:
                case Opened():
                    pending[0] = b""
                    session = Session(methods, nursery, flush)
                    on_session()
                case Data(number, data):
                    if session is not None:
                        session.receive(data)
                        if session.http.closed:
                            pump()
                    linked.connection.acknowledge(number, len(data))
                case Reset():
                    if session is not None:
                        session.close()
                    session = None

        pending = [b""]
        linked = LinkedLine(line, make_id, on_event)
        linked.on_room = pump
        on_linked(linked)
        await linked.run()
