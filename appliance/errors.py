"""Errors by meaning. What crosses a package is one of these, carries the text that Docker's users know, and chains its cause."""

import contextlib
from collections.abc import Iterator


class VchError(Exception):
    """Base; the text is shown to users."""


class NotFound(VchError):
    """What was named does not exist."""


class Conflict(VchError):
    """The request does not fit the present state."""


class NotModified(VchError):
    """The state is already what was asked for."""


class InvalidParameter(VchError):
    """The request is malformed, or asks for what is refused by name."""


class Unauthorized(VchError):
    """A registry or client could not prove who it is."""


class Forbidden(VchError):
    """Known, but not allowed."""


class Unavailable(VchError):
    """Something this needs does not answer; trying later may help."""


class NotInSwarm(VchError):
    """This node is in no swarm, or is in one already."""


class Unsupported(VchError):
    """Not offered here."""


class ProtocolError(VchError):
    """A peer (client, registry, image or guest) sent what nobody should."""


class HypervisorError(VchError):
    """The hypervisor refused or failed; the text holds its own words."""


def unforeseen(error: BaseException) -> VchError:
    """What a client is told of an error that is none of ours: a fault of vchd's, whose trace is in its log."""
    return VchError(f"internal error: {error!r}")


@contextlib.contextmanager
def one_by_itself() -> Iterator[None]:
    """Where a nursery ends with a group of our errors, raise the first of them instead. (What `except*` raises is a group again.)"""
    try:
        yield
    except BaseExceptionGroup as group:
        found = leaves(group)
        if all(isinstance(leaf, VchError) for leaf in found):
            raise found[0] from group
        raise


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]
