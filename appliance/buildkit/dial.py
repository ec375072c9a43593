"""How a channel reaches buildkitd."""

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The client's end of mutual TLS, in PEM. `name` is the name that the server's certificate has."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where grpcio connects to: "unix:PATH" or "ipv4:ADDRESS:PORT"; without `tls` in plain text."""

    address: str
    tls: ClientTls | None = None


class Dial(Protocol):
    """A way to buildkitd."""

    def open(self) -> AbstractAsyncContextManager[Target]:
        """A target that is valid inside of the block, entered and left on trio. VchError when there is none.

        grpcio may connect to the target several times, one connection after the other.
        """


class UnixDial:
    """buildkitd at a unix socket of this host."""

    def __init__(self, path: str) -> None:
        self._target = Target(f"unix:{path}")

    def open(self) -> AbstractAsyncContextManager[Target]:
        """See Dial."""
        return nullcontext(self._target)
