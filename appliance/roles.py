"""Roles and principals: who sends a request, and what may that client do at most.

`appliance/api/access.py` says which routes each role may call. A principal with a scope sees and touches only the objects that were made in
that scope, whatever its role.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from appliance.errors import InvalidParameter

SOCKET_LABEL = "vch.docker-socket"


class Role(enum.Enum):
    """What a client may do. A later role is more generous than an earlier role."""

    NONE = "none"
    READ = "read"
    FILES = "files"
    REGISTRY = "registry"
    SCOPED = "scoped"
    FULL = "full"

    @property
    def sees_env(self) -> bool:
        """Whether `inspect` shows the values of environment variables, which often are passwords."""
        return self in (Role.FILES, Role.SCOPED, Role.FULL)


_RANKS = {role: rank for rank, role in enumerate(Role)}
ROLE_NAMES = tuple(role.value for role in Role)


@dataclass(frozen=True, slots=True)
class Principal:
    """The client of a connection. `name` is for error texts, such as "client certificate CN=x" or "container:ID".

    `scope`: the client sees only the objects of this scope, "" for a client that sees all objects. What the client makes gets this scope.
    """

    name: str
    role: Role
    scope: str = ""

    def __post_init__(self) -> None:
        if self.role is Role.SCOPED and not self.scope:
            raise ValueError(f"{self.name} has the role scoped, and no scope")


# A client of a unix socket, which the mode of the socket file protects, and a TCP client without rules.
LOCAL = Principal("local client", Role.FULL)


def sees(scope: str, owner: str) -> bool:
    """Whether a client, or a container, of a scope may see an object of an owner (a scope, too). "" sees all objects."""
    return scope in ("", owner)


def parse_role(text: str) -> Role:
    """A role by its name. InvalidParameter lists the names."""
    if text not in ROLE_NAMES:
        raise InvalidParameter(f"invalid role '{text}': use {', '.join(ROLE_NAMES[:-1])} or {ROLE_NAMES[-1]}")
    return Role(text)


def most_generous(roles: Iterable[Role]) -> Role:
    """The most generous of the roles, NONE if there is no role."""
    return max(roles, key=_RANKS.__getitem__, default=Role.NONE)


def socket_role(labels: Mapping[str, str], default: Role, creator: Principal) -> Role:
    """The role of the API socket in a new container: the label `vch.docker-socket` of the create request, or the default.

    `labels` are those of the request, never those of the image: an image must not choose its rights. The role is never more generous
    than the creator's. InvalidParameter for an unknown role.
    """
    text = labels.get(SOCKET_LABEL)
    try:
        wanted = default if text is None else parse_role(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid label {SOCKET_LABEL}: {error}") from error
    return min(wanted, creator.role, key=_RANKS.__getitem__)


def container_principal(container_id: str, owner: str, role: Role) -> Principal:
    """The principal of the API socket in a container. `owner` is the scope in which the container was made.

    A container of a scope shares that scope. Another container whose role is SCOPED begins a scope of its own.
    """
    name = f"container:{container_id}"
    return Principal(name, role, owner or (name if role is Role.SCOPED else ""))
