"""One end of the link: a session is a pair of random ids, inside it a byte stream with go-back-N.

Opening is a three-way handshake, so that a stale HELLO on the line cannot end a living session:

    A: HELLO(a, 0)      B: HELLO(b, a)      A: ACK(a, b)

An end that is already in a session answers a stranger's HELLO from a fresh id (a challenge) and leaves its session only when
the stranger answers to that id. Both ends are equal; either may reboot at any time. What the other end receives within one
session is an exact, in-order prefix of what was sent; otherwise the session ends with `Reset` and a new one opens.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tether.link.frame import FLAG_GAP, HEADER_SIZE, MAX_PAYLOAD, Frame, FrameReader, Kind

_HELLO_INTERVALS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_CHALLENGES = 8
# Firmware that uses the serial port as its console (OVMF does) takes this byte as a key, and opens its menu instead of booting.
_ESCAPE = b"\x1b"
# One id of twenty needs a second try.
_TRIES = 16
_RETRANSMIT_FIRST = 1.0
_RETRANSMIT_LAST = 8.0
_ACK_DELAY = 0.01


@dataclass(frozen=True, slots=True)
class Opened:
    """A session is open; `session` names it in calls of `acknowledge`."""

    session: int


@dataclass(frozen=True, slots=True)
class Data:
    session: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reset:
    """The session is over: whatever was not delivered by now never will be."""

    session: int


Event = Opened | Data | Reset


class Connection:
    """Frames on a line with noise, no end-of-file, and peers that reboot.

    `make_id` returns a random non-zero 64-bit number. `window` is how many undelivered bytes the peer may have under way and
    also how many unacknowledged bytes are kept here. Times are seconds of one monotonic clock.
    """

    def __init__(self, make_id: Callable[[], int], now: float, *, window: int = 1 << 20) -> None:
        self._make_id = make_id
        self._window = window
        self._reader = FrameReader()
        self._events: deque[Event] = deque()
        self.retransmissions = 0
        self.stale = 0
        self._idle_bytes = 0
        self._begin(self._new_id(), now)

    # -- state of one session -------------------------------------------------------------------------------------

    def _begin(self, local: int, now: float) -> None:
        self._local = local
        self._remote = 0
        self._candidate = 0
        self._hello_at: float | None = now
        self._hellos = 0
        self._challenge_id = 0
        self._challenge_peer = 0
        self._challenge_at: float | None = None
        self._challenge_due = False
        self._challenges = 0
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._sent: deque[tuple[int, bytes]] = deque()
        self._next_offset = 0
        self._acked = 0
        self._peer_limit = 0
        self._resend = False
        self._retransmit_at: float | None = None
        self._retransmit_after = _RETRANSMIT_FIRST
        self._received = 0
        self._limit = self._window
        self._announced_limit = 0
        self._ack_sent = 0
        self._ack_now = False
        self._ack_at: float | None = None
        self._gap_at: float | None = None
        self._gap_due = False
        self._hello_due = False
        self._probe_at: float | None = None
        # Whether the peer has not answered since this end last probed it.
        self._unanswered = False

    def _new_id(self) -> int:
        """An id whose first HELLO, which this end writes while the peer may still boot, holds no Escape."""
        for _ in range(_TRIES):
            candidate = self._make_id()
            if _ESCAPE not in Frame(Kind.HELLO, candidate, 0).encode():
                break
        return candidate

    @property
    def session(self) -> int | None:
        """The open session's name on this end, None while there is none."""
        return self._local if self._remote else None

    @property
    def owes_acknowledgement(self) -> bool:
        """Whether the peer needs an acknowledgement now: its window has opened, or data has arrived out of order."""
        return self._ack_now

    @property
    def skipped(self) -> int:
        """Bytes on the line that were part of no frame."""
        return self._reader.skipped

    @property
    def useless(self) -> int:
        """Bytes on the line that brought neither data nor room: part of no frame, for no session, repeated, or without news."""
        return self._reader.skipped + self._idle_bytes

    def reset(self, now: float) -> None:
        """End the session from this side, at once; the peer learns of it by the new HELLO."""
        if self._remote:
            self._events.append(Reset(self._local))
        self._begin(self._new_id(), now)

    def line_reconnected(self, now: float) -> None:
        """The transport was replaced: what was under way is lost, so send it again without waiting."""
        if self._remote:
            self._resend = bool(self._sent)
            self._ack_now = True
        else:
            self._hello_at, self._hellos = now, 0

    # -- stream out -----------------------------------------------------------------------------------------------

    def send_room(self) -> int:
        """How many bytes `send` would take now."""
        if not self._remote:
            return 0
        return max(0, self._window - self._unsent_bytes - (self._next_offset - self._acked))

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Queue a prefix of data for the open session; return how long it is."""
        taken = min(len(data), self.send_room())
        if not taken:
            return 0
        view = memoryview(data)
        for start in range(0, taken, MAX_PAYLOAD):
            self._unsent.append(bytes(view[start : min(taken, start + MAX_PAYLOAD)]))
        self._unsent_bytes += taken
        return taken

    def data_to_send(self, now: float, most: int = 4 * MAX_PAYLOAD) -> bytes:
        """Return bytes for the line, about `most` at once; b"" when there is nothing to do before `next_deadline`."""
        self._on_time(now)
        parts: list[bytes] = []
        if self._hello_due:
            self._hello_due = False
            parts.append(Frame(Kind.HELLO, self._local, self._remote or self._candidate).encode())
        if self._challenge_due:
            self._challenge_due = False
            parts.append(Frame(Kind.HELLO, self._challenge_id, self._challenge_peer).encode())
        if self._remote:
            size = 0
            if self._resend:
                self._resend = False
                self.retransmissions += 1
                for offset, payload in self._sent:
                    parts.append(self._frame(Kind.DATA, offset, payload))
                self._retransmit_at = now + self._retransmit_after
            while self._unsent and size < most and self._next_offset + len(self._unsent[0]) <= self._peer_limit:
                payload = self._unsent.popleft()
                self._unsent_bytes -= len(payload)
                parts.append(self._frame(Kind.DATA, self._next_offset, payload))
                self._sent.append((self._next_offset, payload))
                self._next_offset += len(payload)
                size += len(payload)
                if self._retransmit_at is None:
                    self._retransmit_at = now + self._retransmit_after
            if self._ack_now:
                parts.append(self._frame(Kind.ACK, self._next_offset, b""))
            if self._unsent and not self._sent:
                # The peer's window is shut, and its opening may get lost: ask again some time.
                if self._probe_at is None:
                    self._probe_at = now + _RETRANSMIT_FIRST
            else:
                self._probe_at = None
        return b"".join(parts)

    def _frame(self, kind: Kind, offset: int, payload: bytes) -> bytes:
        gap = kind is Kind.ACK and self._gap_due
        if gap:
            self._gap_due = False
        self._ack_now = False
        self._ack_at = None
        self._ack_sent = self._received
        self._announced_limit = self._limit
        return Frame(
            kind,
            self._local,
            self._remote,
            offset,
            self._received,
            self._limit - self._received,
            FLAG_GAP if gap else 0,
            payload,
        ).encode()

    # -- time -----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `data_to_send` should be called although nothing came in."""
        times: tuple[float | None, ...] = (
            self._hello_at,
            self._challenge_at,
            self._retransmit_at,
            self._ack_at,
            self._probe_at,
        )
        times += (self._reader.next_deadline(),)
        return min((time for time in times if time is not None), default=None)

    def _on_time(self, now: float) -> None:
        give_up = self._reader.next_deadline()
        if give_up is not None and now >= give_up:
            self.receive_data(b"", now)
        if self._hello_at is not None and now >= self._hello_at:
            self._hello_due = True
            self._hello_at = now + _HELLO_INTERVALS[min(self._hellos, len(_HELLO_INTERVALS) - 1)]
            self._hellos += 1
        if self._challenge_at is not None and now >= self._challenge_at:
            self._challenge_due = True
            self._challenges += 1
            interval = _HELLO_INTERVALS[min(self._challenges, len(_HELLO_INTERVALS) - 1)]
            self._challenge_at = now + interval if self._challenges < _CHALLENGES else None
        if self._retransmit_at is not None and now >= self._retransmit_at:
            self._retransmit_after = min(_RETRANSMIT_LAST, self._retransmit_after * 2)
            self._resend = self._unanswered = True
        if self._ack_at is not None and now >= self._ack_at:
            self._ack_now = True
        if self._probe_at is not None and now >= self._probe_at:
            self._probe_at = None
            self._hello_due = self._unanswered = True

    # -- stream in ------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def acknowledge(self, session: int, size: int) -> None:
        """The user of the stream has taken `size` bytes of `Data`: as many more may come."""
        if session != self._local or not self._remote:
            return
        self._limit = min(self._limit + size, self._received + self._window)
        # Tell the peer when it matters: at a quarter of the window, not for each byte.
        if self._limit - self._announced_limit >= self._window // 4:
            self._ack_now = True

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take bytes off the line, whatever they are."""
        self.receive_frames(self._reader.receive_untrusted(data, now), now)

    def receive_frames(self, frames: list[Frame], now: float) -> None:
        """Take what came by another line than the one whose bytes `receive_data` takes."""
        for frame in frames:
            before = self._received, self._acked, self._peer_limit
            self._on_frame(frame, now)
            if before == (self._received, self._acked, self._peer_limit):
                self._idle_bytes += HEADER_SIZE + len(frame.payload)

    def _on_frame(self, frame: Frame, now: float) -> None:
        if not frame.source:
            self.stale += 1
        elif self._remote and frame.source == self._remote and frame.destination == self._local:
            self._in_session(frame, now)
        elif not self._remote and frame.destination == self._local:
            # A peer that knows this end's new id has received its HELLO: the session is open.
            self._open(frame.source)
            self._in_session(frame, now)
        elif self._challenge_id and frame.destination == self._challenge_id:
            # Only a living peer knows the challenge. It may answer under another id: its own challenge to this end.
            local = self._challenge_id
            self._events.append(Reset(self._local))
            self._begin(local, now)
            self._open(frame.source)
            self._in_session(frame, now)
        elif frame.kind is Kind.HELLO:
            self._on_stranger(frame, now)
        else:
            self.stale += 1

    def _on_stranger(self, frame: Frame, now: float) -> None:
        meant = frame.destination in (0, self._local)
        if not self._remote and meant:
            self._candidate = frame.source
            self._hello_at, self._hellos = now, 0
        elif frame.source == self._remote and meant:
            self._hello_due = True
        elif not self._remote or frame.source == self._remote or not (meant or self._unanswered):
            # The HELLO is for an earlier session of this end, so ignore it. If the peer does not answer in the present session
            # either, it is not ignored: each end may be in a session that the other end has lost.
            self.stale += 1
        elif frame.source != self._challenge_peer or self._challenge_at is None:
            if frame.source != self._challenge_peer:
                self._challenge_id = self._new_id()
                self._challenge_peer = frame.source
            self._challenges = 0
            self._challenge_at = now

    def _open(self, remote: int) -> None:
        self._remote = remote
        self._hello_at = None
        self._ack_now = True
        self._events.append(Opened(self._local))

    def _in_session(self, frame: Frame, now: float) -> None:
        self._unanswered = False
        if frame.kind is Kind.HELLO:
            # The peer does not know yet that the session is open.
            self._ack_now = True
            return
        self._on_ack(frame, now)
        if frame.kind is Kind.DATA:
            self._on_data(frame, now)
        elif frame.offset > self._received:
            # An idle peer has sent more than arrived here.
            self._report_gap(now)

    def _on_ack(self, frame: Frame, now: float) -> None:
        if frame.ack > self._next_offset:
            self.stale += 1
            return
        # This end never has more than its own window under way. A larger window is no news, or a peer would have news without end.
        self._peer_limit = max(self._peer_limit, frame.ack + min(frame.window, self._window))
        if frame.ack > self._acked:
            self._acked = frame.ack
            while self._sent and self._sent[0][0] + len(self._sent[0][1]) <= frame.ack:
                self._sent.popleft()
            self._retransmit_after = _RETRANSMIT_FIRST
            self._retransmit_at = now + self._retransmit_after if self._sent else None
        if frame.flags & FLAG_GAP and self._sent and frame.ack == self._acked:
            self._resend = True

    def _on_data(self, frame: Frame, now: float) -> None:
        end = frame.offset + len(frame.payload)
        if frame.offset > self._received:
            self._report_gap(now)
            return
        if end <= self._received or end > self._limit:
            # Received before (the acknowledgement was lost), or beyond the window.
            self._ack_now = True
            return
        payload = frame.payload[self._received - frame.offset :]
        self._received = end
        self._gap_at = None
        self._events.append(Data(self._local, payload))
        if self._received - self._ack_sent >= self._window // 4:
            self._ack_now = True
        elif self._ack_at is None:
            self._ack_at = now + _ACK_DELAY

    def _report_gap(self, now: float) -> None:
        # Once per gap, and again only after the peer had time to act: each report makes it send everything again.
        if self._gap_at is None or now - self._gap_at >= _RETRANSMIT_FIRST / 2:
            self._gap_at = now
            self._gap_due = True
            self._ack_now = True
