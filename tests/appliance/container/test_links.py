"""Legacy links: their texts, and the variables that describe the linked container."""

import pytest

from appliance.container.config import ContainerConfig, Empty
from appliance.container.links import link_environment, parse_link
from appliance.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db", ("db", "db")),
        ("db:store", ("db", "store")),
        ("/db:/web/store", ("db", "store")),
        ("db:", ("db", "db")),
    ],
)
def test_links(text: str, expected: tuple[str, str]) -> None:
    assert parse_link(text) == expected


@pytest.mark.parametrize("text", ["", ":store", "/", "a:b:c"])
def test_bad_links(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_link(text)
    assert str(caught.value) == f"bad format for links: {text}"


def test_variables() -> None:
    child = ContainerConfig(
        exposed_ports={"5432/tcp": Empty(), "53/udp": None, "80": Empty(), "443/tcp": Empty()},
        env=["PASSWORD=a=b", "HOME=/root", "PATH=/bin", "EMPTY=", "UNSET"],
    )
    assert link_environment("web", "my-db", "10.0.0.2", child) == [
        "MY_DB_NAME=/web/my-db",
        "MY_DB_PORT=tcp://10.0.0.2:80",
        *_port("80", "tcp"),
        *_port("443", "tcp"),
        *_port("5432", "tcp"),
        *_port("53", "udp"),
        "MY_DB_ENV_PASSWORD=a=b",
        "MY_DB_ENV_EMPTY=",
    ]


def _port(number: str, protocol: str) -> list[str]:
    base = f"MY_DB_PORT_{number}_{protocol.upper()}"
    return [
        f"{base}={protocol}://10.0.0.2:{number}",
        f"{base}_ADDR=10.0.0.2",
        f"{base}_PORT={number}",
        f"{base}_PROTO={protocol}",
    ]


def test_a_container_without_ports() -> None:
    assert link_environment("web", "db", "10.0.0.2", ContainerConfig()) == ["DB_NAME=/web/db"]
