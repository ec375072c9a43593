"""Two real ends of the link over a wire that loses, repeats, cuts, flips, delays, and whose ends reboot."""

import itertools
import random
from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tether.link import MAX_PAYLOAD, Connection, Data, Frame, FrameReader, Kind, Opened, Reset


def ids(seed: int) -> Iterator[int]:
    source = random.Random(seed)
    return (source.randrange(1, 1 << 64) for _ in itertools.count())


def test_a_booting_peer_receives_no_escape() -> None:
    """Firmware may read the line as a keyboard, and Escape opens its menu."""
    for seed in range(200):
        end = Connection(ids(seed).__next__, 0.0)
        assert b"\x1b" not in end.data_to_send(0.0)


class End:
    """One end and what its user sees: a list of received streams, one per session, beside what it sent in each."""

    def __init__(self, seed: int, now: float, window: int = 4096) -> None:
        self.make_id = ids(seed).__next__
        self.window = window
        self.boot(now)
        self.finished: list[tuple[int, bytes]] = []

    def boot(self, now: float) -> None:
        self.connection = Connection(self.make_id, now, window=self.window)
        self.received = b""
        self.sent: dict[int, bytes] = {}
        self.opened = 0

    def send(self, data: bytes) -> None:
        session = self.connection.session
        if session is not None:
            taken = self.connection.send(data)
            self.sent[session] = self.sent.get(session, b"") + data[:taken]

    def collect(self) -> None:
        while (event := self.connection.next_event()) is not None:
            match event:
                case Opened():
                    self.opened += 1
                    self.received = b""
                case Data(session, data):
                    self.received += data
                    self.connection.acknowledge(session, len(data))
                case Reset():
                    self.received = b""


def join(a: End, b: End, now: float, turns: int = 400) -> float:
    """Run a perfect wire until both ends are quiet."""
    for _ in range(turns):
        moved = False
        for one, other in ((a, b), (b, a)):
            data = one.connection.data_to_send(now)
            if data:
                moved = True
                other.connection.receive_data(data, now)
                other.collect()
        if not moved:
            deadlines = [d for d in (a.connection.next_deadline(), b.connection.next_deadline()) if d is not None]
            if not deadlines:
                return now
            now = max(now, min(deadlines))
    return now


def test_opens_and_carries_both_ways() -> None:
    a, b = End(1, 0.0), End(2, 0.0)
    now = join(a, b, 0.0)
    assert a.connection.session is not None
    assert b.connection.session is not None
    a.send(b"ping")
    b.send(b"pong")
    join(a, b, now)
    assert (b.received, a.received) == (b"ping", b"pong")
    assert a.connection.retransmissions == 0


def test_a_reboot_is_a_reset_and_a_new_session() -> None:
    a, b = End(1, 0.0), End(2, 0.0)
    now = join(a, b, 0.0)
    a.send(b"old")
    now = join(a, b, now)
    b.boot(now)
    now = join(a, b, now)
    assert a.opened == 2
    a.send(b"new")
    join(a, b, now)
    assert b.received == b"new"


def test_a_stale_hello_does_not_end_a_living_session() -> None:
    a, b = End(1, 0.0), End(2, 0.0)
    now = join(a, b, 0.0)
    a.connection.receive_data(Frame(Kind.HELLO, 77, 0).encode(), now)
    a.send(b"still here")
    join(a, b, now)
    assert (a.opened, b.opened) == (1, 1)
    assert b.received == b"still here"


def test_window_stops_a_sender_until_its_peer_reads() -> None:
    a, b = End(1, 0.0), End(2, 0.0)
    now = join(a, b, 0.0)
    assert a.connection.send(b"x" * 10_000) == 4096
    b.connection.receive_data(a.connection.data_to_send(now), now)
    # b's user does not read: what it acknowledges on the wire opens nothing.
    a.connection.receive_data(b.connection.data_to_send(now + 1), now + 1)
    assert a.connection.send(b"y") == 1
    assert a.connection.data_to_send(now + 1) == b""
    b.collect()
    a.connection.receive_data(b.connection.data_to_send(now + 2), now + 2)
    assert a.connection.data_to_send(now + 2) != b""


def test_a_lost_window_opening_does_not_stall() -> None:
    a, b = End(1, 0.0), End(2, 0.0)
    now = join(a, b, 0.0)
    a.send(b"x" * 4096)
    b.connection.receive_data(a.connection.data_to_send(now), now)
    a.connection.receive_data(b.connection.data_to_send(now + 1), now + 1)
    a.send(b"more")
    a.connection.data_to_send(now + 1)
    b.collect()
    assert b.connection.data_to_send(now + 1) != b"", "the opening, lost here"
    join(a, b, now + 1)
    assert b.received == b"x" * 4096 + b"more"


def test_a_cut_frame_is_given_up_and_the_next_one_found() -> None:
    reader = FrameReader()
    whole = Frame(Kind.DATA, 1, 2, payload=b"z" * 1000).encode()
    assert reader.receive_untrusted(whole[:300], 0.0) == []
    deadline = reader.next_deadline()
    assert deadline is not None
    hello = Frame(Kind.HELLO, 1, 0)
    assert reader.receive_untrusted(hello.encode(), deadline) == [hello]
    assert reader.skipped == 300


def test_a_flood_of_hellos_is_answered_once_per_turn() -> None:
    a, b = End(1, 0.0), End(2, 0.0)
    now = join(a, b, 0.0)
    for stranger in range(5000):
        a.connection.receive_data(Frame(Kind.HELLO, stranger + 9, 0).encode(), now)
    assert len(a.connection.data_to_send(now)) < 400


def test_a_window_that_grows_without_end_is_no_news() -> None:
    end = Connection(ids(1).__next__, 0.0, window=4096)
    end.receive_data(Frame(Kind.HELLO, 7, 0).encode(), 0.0)
    end.data_to_send(0.0)
    local = end._local
    flood = [Frame(Kind.ACK, 7, local, window=1 << 16 | number).encode() for number in range(100)]
    end.receive_data(b"".join(flood), 0.0)
    assert end.session == local
    assert end.useless >= 99 * len(flood[0])


@given(st.lists(st.binary(max_size=200), max_size=20), st.randoms(use_true_random=False))
def test_frames_are_found_between_garbage(noise: list[bytes], order: random.Random) -> None:
    frames = [Frame(Kind.DATA, 5, 6, offset=n, payload=order.randbytes(n * 37)) for n in range(5)]
    reader = FrameReader()
    found: list[Frame] = []
    now = 0.0
    for index, frame in enumerate(frames):
        garbage = noise[index] if index < len(noise) else b""
        found += reader.receive_untrusted(garbage.replace(b"V", b"W"), now)
        encoded = frame.encode()
        cut = order.randrange(len(encoded))
        found += reader.receive_untrusted(encoded[:cut], now)
        found += reader.receive_untrusted(encoded[cut:], now)
    assert found == frames


@given(st.binary(max_size=3 * MAX_PAYLOAD // 100))
def test_any_bytes_are_survived(data: bytes) -> None:
    end = End(3, 0.0)
    end.connection.receive_data(data + Frame(Kind.HELLO, 9, 9).encode()[:-5] + data, 0.0)
    end.collect()
    end.connection.data_to_send(10.0)


@settings(max_examples=50, deadline=None)
# Each end was in a session with an earlier life of the other, and had challenged the other's challenge.
@example(seed=52782924, evil=0.35546875, reboots=3)
@given(seed=st.integers(0, 1 << 32), evil=st.floats(0, 0.5), reboots=st.integers(0, 4))
def test_what_arrives_is_a_prefix_or_a_reset(seed: int, evil: float, reboots: int) -> None:
    """The invariant: within one session, what one end has is a prefix of what the other sent; and once the wire is
    clean again everything arrives."""
    source = random.Random(seed)
    now = 0.0
    ends = [End(seed, now), End(seed + 1, now)]
    wire: list[tuple[float, int, bytes]] = []
    history: tuple[list[bytes], list[bytes]] = ([], [])
    reboot_turns = {source.randrange(300) for _ in range(reboots)}

    def check() -> None:
        for here, there in ((0, 1), (1, 0)):
            streams = [*ends[there].sent.values(), *history[there], b""]
            assert any(stream.startswith(ends[here].received) for stream in streams)

    for turn in range(300):
        now += source.random() * 0.2
        if turn in reboot_turns:
            victim = source.randrange(2)
            history[victim].extend(ends[victim].sent.values())
            ends[victim].boot(now)
        for index, end in enumerate(ends):
            end.send(source.randbytes(source.randrange(600)))
            data = end.connection.data_to_send(now)
            if not data:
                continue
            copies = 2 if source.random() < evil else 1
            for _ in range(copies):
                fate = source.random()
                sent = bytearray(data)
                if fate < evil / 4:
                    continue
                if fate < evil / 2:
                    del sent[source.randrange(len(sent)) :]
                elif fate < evil * 0.75:
                    sent[source.randrange(len(sent))] ^= 1 << source.randrange(8)
                elif fate < evil * 0.85:
                    sent[:0] = source.randbytes(source.randrange(90))
                delay = source.random() * 2 if source.random() < evil else 0.0
                wire.append((now + delay, 1 - index, bytes(sent)))
        due = [item for item in wire if item[0] <= now]
        wire = [item for item in wire if item[0] > now]
        for _, index, data in sorted(due, key=lambda item: item[0]):
            ends[index].connection.receive_data(data, now)
            ends[index].collect()
            check()
    now = join(ends[0], ends[1], now + 3, turns=4000)
    for here, there in ((0, 1), (1, 0)):
        session = ends[there].connection.session
        assert session is not None
        assert ends[here].received == ends[there].sent.get(session, b"")
