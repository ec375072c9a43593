"""Which role a client has, and which role the API socket of a container has."""

import pytest

from appliance.errors import InvalidParameter
from appliance.roles import (
    LOCAL,
    SOCKET_LABEL,
    Principal,
    Role,
    container_principal,
    most_generous,
    parse_role,
    sees,
    socket_role,
)

_SCOPED = Principal("client certificate CN=x", Role.SCOPED, "client certificate CN=x")


def test_roles_by_name() -> None:
    assert [parse_role(text) for text in ("none", "read", "files", "registry", "scoped", "full")] == list(Role)
    with pytest.raises(
        InvalidParameter, match=r"^invalid role 'root': use none, read, files, registry, scoped or full$"
    ):
        parse_role("root")


def test_the_most_generous_role() -> None:
    assert most_generous([Role.READ, Role.SCOPED, Role.FILES]) is Role.SCOPED
    assert most_generous([]) is Role.NONE


@pytest.mark.parametrize("role", list(Role))
def test_a_label_gives_the_role_up_to_the_creators(role: Role) -> None:
    labels = {SOCKET_LABEL: role.value}
    assert socket_role(labels, Role.FULL, LOCAL) is role
    assert socket_role(labels, Role.FULL, _SCOPED) is (Role.SCOPED if role is Role.FULL else role)


@pytest.mark.parametrize("role", list(Role))
def test_the_default_role_up_to_the_creators(role: Role) -> None:
    assert socket_role({}, role, LOCAL) is role
    assert socket_role({"vch.other": "full"}, role, _SCOPED) is (Role.SCOPED if role is Role.FULL else role)


@pytest.mark.parametrize("text", ["", "Full", "root", "scoped "])
def test_an_unknown_label(text: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^invalid label vch.docker-socket: invalid role '{text}': use none, "):
        socket_role({SOCKET_LABEL: text}, Role.FULL, LOCAL)


def test_the_principal_of_a_container() -> None:
    assert container_principal("abc", "", Role.FULL) == Principal("container:abc", Role.FULL)
    assert container_principal("abc", "", Role.READ) == Principal("container:abc", Role.READ)
    # A scope of its own, which what it makes shares.
    assert container_principal("abc", "", Role.SCOPED) == Principal("container:abc", Role.SCOPED, "container:abc")
    nested = container_principal("def", "container:abc", Role.SCOPED)
    assert nested == Principal("container:def", Role.SCOPED, "container:abc")
    # Also a role that only reads stays in the scope.
    assert container_principal("def", "container:abc", Role.READ).scope == "container:abc"


def test_the_role_scoped_needs_a_scope() -> None:
    with pytest.raises(ValueError, match="no scope"):
        Principal("x", Role.SCOPED)


def test_what_a_scope_sees() -> None:
    assert {owner: sees("a", owner) for owner in ("", "a", "b")} == {"": False, "a": True, "b": False}
    assert {owner: sees("", owner) for owner in ("", "a")} == {"": True, "a": True}
