"""What build clients may make this process hold in memory, for all of their connections together."""

import asyncio
from collections import deque
from collections.abc import Callable

RESERVED_BYTES = 64 << 20
UNRESERVED_BYTES = 64 << 20


class Reservations:
    """A sum of bytes that callers reserve, first come first served. For code on one asyncio loop."""

    def __init__(self, size: int) -> None:
        self.room = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def contended(self) -> bool:
        """Whether a caller waits for room."""
        return bool(self._waiting)

    async def take(self, size: int) -> None:
        """Reserve bytes; waits for its turn. `size` is at most the whole sum."""
        if not self._waiting and size <= self.room:
            self.room -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size, granted)
        self._waiting.append(place)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(size)
            else:
                if place in self._waiting:
                    self._waiting.remove(place)
                self._grant()
            raise

    def give(self, size: int) -> None:
        """Return reserved bytes."""
        self.room += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.room:
            size, granted = self._waiting.popleft()
            # The task of a cancelled future has not run since, so it has not left the queue.
            if not granted.cancelled():
                self.room -= size
                granted.set_result(None)


class ByteBudget:
    """Long messages are reserved, `incoming` ones before more than their beginning is received, `outgoing` ones before they are queued.

    A message is reserved as a whole. A call that holds an incoming message may wait for room for an outgoing one, never the other way
    round: so calls never wait for each other in a circle.

    Unreserved bytes are what clients may send without a reservation. If there are too many, the connection that holds the most ends.
    """

    def __init__(self, reserved: int = RESERVED_BYTES, unreserved: int = UNRESERVED_BYTES) -> None:
        """`reserved`: bytes of each direction."""
        self.incoming = Reservations(reserved)
        self.outgoing = Reservations(reserved)
        self.unreserved = 0
        self._most_unreserved = unreserved
        self._connections: dict[Callable[[], None], int] = {}
        # Connections that were ended, and whose bytes are about to go.
        self._ending: set[Callable[[], None]] = set()

    @property
    def contended(self) -> bool:
        """Whether a message waits for room."""
        return self.incoming.contended or self.outgoing.contended

    def hold(self, end: Callable[[], None], change: int) -> None:
        """The connection that `end` ends holds `change` more unreserved bytes (fewer, if negative)."""
        self.unreserved += change
        held = self._connections.get(end, 0) + change
        if held:
            self._connections[end] = held
        else:
            self._connections.pop(end, None)
            self._ending.discard(end)
        going = sum(self._connections[one] for one in self._ending)
        if self.unreserved - going > self._most_unreserved:
            greediest = max(self._connections.keys() - self._ending, key=self._connections.__getitem__)
            self._ending.add(greediest)
            greediest()
