"""At which ports somebody in the guest listens; the kernel tells nobody when that changes, so it is looked at."""

from collections.abc import Iterator
from pathlib import Path

import trio

from protos.tether.v1 import network_pb2
from tether.rpc.server import Call

_NET = Path("/proc/net")
_MOST = 1024
# Right after a change the next is likely: looked at soon, then less and less often.
_SOON, _LATE = 0.05, 0.5
# States of include/net/tcp_states.h: a socket that listens, one of UDP that is not connected.
_STATES = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
# ::1 and ::ffff:127.0.0.0/104, in words of 32 bits as the guest's byte order has them.
_LOOPBACK6 = ("00000000000000000000000001000000", "0000000000000000FFFF0000")


async def watch(call: Call) -> None:
    """Answer a call of Network.WatchListeners until its client goes."""
    told: list[tuple[str, int]] | None = None
    pause = _SOON
    while True:
        now = sorted(set(listening()))[:_MOST]
        if now != told:
            await call.send(
                network_pb2.Listeners(
                    listeners=[network_pb2.Listener(protocol=protocol, port=port) for protocol, port in now]
                )
            )
            told, pause = now, _SOON
        await trio.sleep(pause)
        pause = min(_LATE, pause * 1.5)


def listening() -> Iterator[tuple[str, int]]:
    """(protocol, port) of all sockets that can be reached by others; proc(5), /proc/net/tcp."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for name, state in _STATES.items():
        try:
            lines = (_NET / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            _, local, _, has, *_ = line.split()
            address, _, number = local.partition(":")
            port = int(number, 16)
            if has != state or _is_loopback(address) or (name.startswith("udp") and first <= port <= last):
                continue
            yield name[:3], port


def _is_loopback(address: str) -> bool:
    if len(address) == 8:
        return address.endswith("7F")
    return address == _LOOPBACK6[0] or (address.startswith(_LOOPBACK6[1]) and address.endswith("7F"))
