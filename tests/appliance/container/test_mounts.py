"""Binds and Mounts as moby reads them."""

from typing import Any

import msgspec
import pytest

from appliance.container.config import ContainerConfig, Empty
from appliance.container.host_config import HostConfig, Mount
from appliance.container.links import link_environment, parse_link
from appliance.container.mounts import check_mounts, parse_bind, parse_mount, parse_volumes_from
from appliance.container.spec import build_spec
from appliance.errors import InvalidParameter
from tether.launch import oci


@pytest.mark.parametrize(
    ("text", "kind", "source", "name", "destination", "read_only"),
    [
        ("/a:/b", "bind", "/a", "", "/b", False),
        ("/a/../c/:/b/:ro,Z", "bind", "/c", "", "/b", True),
        ("name:/b:rw,nocopy", "volume", "", "name", "/b", False),
        ("/b", "volume", "", "", "/b", False),
        ("/b:ro", "volume", "", "", "/b", True),
    ],
)
def test_binds(text: str, kind: str, source: str, name: str, destination: str, read_only: bool) -> None:
    found = parse_bind(text)
    assert (found.type, found.source, found.name, found.destination, found.read_only) == (
        kind,
        source,
        name,
        destination,
        read_only,
    )
    assert found.anonymous == (kind == "volume" and not name)
    assert found.no_copy == ("nocopy" in text)


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":/b", "/a:/b:ro:x", "/a:b", "x:/b", "name:/", "/a:/b:nocopy", "name:/b:rshared", "../a:/b"]
)
def test_binds_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_bind(text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "mount type unknown"),
        ({"Type": "bind", "Target": "/b"}, "field Source must not be empty"),
        ({"Type": "bind", "Source": "a", "Target": "/b"}, "mount path must be absolute"),
        ({"Type": "volume", "Source": "v"}, "field Target must not be empty"),
        ({"Type": "volume", "Target": "/"}, "destination can't be '/'"),
        (
            {"Type": "volume", "Target": "/b", "BindOptions": {"Propagation": "rslave"}},
            "field BindOptions must not be specified",
        ),
        ({"Type": "volume", "Target": "/b", "VolumeOptions": {"Subpath": "x"}}, "anonymous"),
        ({"Type": "volume", "Source": "v", "Target": "/b", "VolumeOptions": {"Subpath": "../x"}}, "relative path"),
        (
            {"Type": "volume", "Target": "/b", "VolumeOptions": {"DriverConfig": {"Name": "other"}}},
            'plugin "other" not found',
        ),
        ({"Type": "tmpfs", "Source": "x", "Target": "/b"}, "field Source must not be specified"),
        ({"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": -1}}, "SizeBytes must not be negative"),
        (
            {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "x"}},
            "invalid propagation mode",
        ),
    ],
)
def test_mounts_that_cannot_be(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        parse_mount(msgspec.convert(given, Mount))


def test_mounts_are_held_against_each_other() -> None:
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /b"):
        check_mounts(HostConfig(binds=["/a:/b"], tmpfs={"/b/": ""}))
    warnings = check_mounts(HostConfig(binds=["/a:/b:rslave"]))
    assert len(warnings) == 1
    assert "rslave" in warnings[0]
    assert parse_volumes_from("box:ro") == ("box", True)
    with pytest.raises(InvalidParameter):
        parse_volumes_from("box:what")


def test_own_mounts_replace_and_go_deeper() -> None:
    import json

    own = [
        oci.Mount("/etc", "bind", "/v/0"),
        oci.Mount("/etc/hosts", "bind", "/v/1"),
    ]
    spec = json.loads(build_spec(ContainerConfig(cmd=["x"]), HostConfig(), "box", own))
    order = [mount["destination"] for mount in spec["mounts"]]
    assert order.index("/etc") < order.index("/etc/hosts")
    assert [mount["source"] for mount in spec["mounts"] if mount["destination"] == "/etc/hosts"] == ["/v/1"]


def test_links() -> None:
    assert parse_link("/db:/box/alias") == ("db", "alias")
    assert parse_link("db") == ("db", "db")
    env = link_environment(
        "box",
        "the-db",
        "10.0.0.2",
        ContainerConfig(exposed_ports={"53/udp": Empty(), "80/tcp": Empty()}, env=["A=b", "PATH=/x"]),
    )
    assert env[0] == "THE_DB_NAME=/box/the-db"
    assert "THE_DB_PORT=tcp://10.0.0.2:80" in env
    assert "THE_DB_PORT_53_UDP_PROTO=udp" in env
    assert [entry for entry in env if "ENV" in entry] == ["THE_DB_ENV_A=b"]
