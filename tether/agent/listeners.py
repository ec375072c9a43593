"""The ports at which processes of the guest listen. The kernel reports no changes, so this module polls."""

from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from protos.tether.v1 import network_pb2
from tether.rpc.call import Call
from tether.system.network_namespace import entered

# Of the thread that reads it, which may have entered another network namespace.
_NET = Path("/proc/thread-self/net")
_MOST = 1024
# Seconds between two polls. Another change is likely right after a change, so the pause starts short and grows.
_SHORTEST, _LONGEST = 0.05, 0.5
# States of include/net/tcp_states.h: a socket that listens, one of UDP that is not connected.
_STATES = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
# ::1 and ::ffff:127.0.0.0/104, as 32-bit words in the byte order of the guest.
_LOOPBACK6 = ("00000000000000000000000001000000", "0000000000000000FFFF0000")


async def watch(call: Call, find_namespace: Callable[[], int]) -> None:
    """Serve a call of Network.WatchListeners until its client cancels it.

    `find_namespace` returns the descriptor of the network namespace; it raises RpcError when the container was removed.
    """
    reported: list[tuple[str, int]] | None = None
    pause = _SHORTEST
    while True:
        with entered(find_namespace()):
            now = sorted(set(listening()))[:_MOST]
        if now != reported:
            await call.send(
                network_pb2.Listeners(
                    listeners=[network_pb2.Listener(protocol=protocol, port=port) for protocol, port in now]
                )
            )
            reported, pause = now, _SHORTEST
        await trio.sleep(pause)
        pause = min(_LONGEST, pause * 1.5)


def listening() -> Iterator[tuple[str, int]]:
    """Yield (protocol, port) of each socket that is reachable from outside the guest; proc(5), /proc/net/tcp."""
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
