"""Errors by meaning. An error that crosses a package is one of these. Its text is Docker's if Docker has one; its cause is chained."""

import contextlib
from collections.abc import Iterator


class VchError(Exception):
    """The base class. Users see the text."""


class NotFound(VchError):
    """The named object does not exist."""


class Conflict(VchError):
    """The request does not fit the present state."""


class NotModified(VchError):
    """The object is already in the requested state."""


class InvalidParameter(VchError):
    """The request is malformed, or asks for something that vch refuses by name."""


class Unauthorized(VchError):
    """A registry or a client could not prove its identity."""


class Forbidden(VchError):
    """The identity is known, but it has no right to do this."""


class Unavailable(VchError):
    """A service that the request needs does not answer; a later attempt may succeed."""


class RemoteFailed(Unavailable):
    """A server that the client has named, a registry for instance, cannot be reached or has failed.

    dockerd answers 500 then: it is not dockerd that is unavailable.
    """


class NotInSwarm(VchError):
    """This node is not in a swarm, or is in a swarm already."""


class Unsupported(VchError):
    """vch does not have this feature."""


class ProtocolError(VchError):
    """A peer (client, registry, image or guest) broke the protocol."""


class HypervisorError(VchError):
    """The hypervisor refused or failed; the text holds its message."""


def unforeseen(error: BaseException) -> VchError:
    """Wrap an unexpected exception for the client. It is a fault in vchd, and its traceback is in vchd's log."""
    return VchError(f"internal error: {error!r}")


@contextlib.contextmanager
def one_by_itself() -> Iterator[None]:
    """Raise the first VchError of a group instead of the group, if the group holds only VchErrors.

    A nursery raises a group. `except*` cannot replace it by a single error, since what `except*` raises is a group again.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        found = leaves(group)
        if all(isinstance(leaf, VchError) for leaf in found):
            raise found[0] from group
        raise


def leaves(error: BaseException) -> list[BaseException]:
    """Return the single exceptions in nested groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaves(member)]
    return [error]
