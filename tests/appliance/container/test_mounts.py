"""Binds and Mounts as moby reads them."""

import itertools
from typing import Any

import msgspec
import pytest

from appliance.container.config import ContainerConfig, Empty
from appliance.container.host_config import HostConfig, Mount
from appliance.container.links import link_environment, parse_link
from appliance.container.mounts import check_mounts, parse_bind, parse_mode, parse_mount, parse_volumes_from
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
        ("/rw:/ro", "bind", "/rw", "", "/ro", False),
        ("/a:/b:", "bind", "/a", "", "/b", False),
        ("/with space:/b c", "bind", "/with space", "", "/b c", False),
        ("name:/b:cached,ro,Z", "volume", "", "name", "/b", True),
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


_SPECIFICATION = "invalid volume specification: '{}'"
_OF_VOLUME = f'{_SPECIFICATION}: invalid mount config for type "volume": '
_OF_BIND = f'{_SPECIFICATION}: invalid mount config for type "bind": '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # moby's linux_parser_test.go.
        *((text, _SPECIFICATION) for text in ("", ":", "/tmp:", ":test", ":/test", "tmp:", ":test:", "::", ":::")),
        *((text, _SPECIFICATION) for text in ("/tmp:::", ":/tmp::", "/path:rw", "/path:ro", "/rw:rw", "path:ro")),
        *((text, _SPECIFICATION) for text in ("/path:shared", "/path:slave", "/path:private", "/a:/b:ro:x")),
        ("./", f"{_OF_VOLUME}invalid mount path: './' mount path must be absolute"),
        ("/:path", f"{_OF_BIND}invalid mount path: 'path' mount path must be absolute"),
        ("/:../", f"{_OF_BIND}invalid mount path: '../' mount path must be absolute"),
        ("name:/", f"{_OF_VOLUME}invalid specification: destination can't be '/'"),
        ("name:/a/..", f"{_OF_VOLUME}invalid specification: destination can't be '/'"),
        ("name::ro", f"{_OF_VOLUME}field Target must not be empty"),
        ("/a:/b:nocopy", f"{_OF_BIND}field VolumeOptions must not be specified"),
        ("name:/b:rshared", f"{_OF_VOLUME}field BindOptions must not be specified"),
        ("../a:/b", 'create ../a: "../a" includes invalid characters'),
        ("x:/b", "create x: volume name is too short, names should be at least two alphanumeric characters"),
        ("/path:/path:sw", "invalid mode: sw"),
        ("/path:/path:rwz", "invalid mode: rwz"),
        ("/path:/path:ro,", "invalid mode: ro,"),
        ("/path:/path:default", "invalid mode: default"),
    ],
)
def test_binds_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as failed:
        parse_bind(text)
    assert str(failed.value).startswith(message.format(text))


_KINDS = (("ro", "rw"), ("z", "Z"), ("private", "rprivate", "slave", "rslave", "shared", "rshared"), ("nocopy",))
_ALL_KINDS = (*_KINDS, ("consistent", "cached", "delegated"))


def test_a_mode_has_one_word_of_each_kind() -> None:
    words = [(word, kind) for kind in _ALL_KINDS for word in kind]
    for first, kind in words:
        assert parse_mode(first) == frozenset((first,))
        for second, other in words:
            # The same word twice is two words.
            expected = frozenset((first, second)) if kind != other else None
            assert parse_mode(f"{first},{second}") == expected
    for nonsense in ("x", "RO", "ro ", "ro,,z", ",", "default"):
        assert parse_mode(nonsense) is None
    assert parse_mode("") == frozenset()


@pytest.mark.parametrize("source", ["/path", "name"])
def test_binds_with_every_combination_of_a_mode(source: str) -> None:
    """moby: a bind has no copy mode and a volume no propagation; all else goes together, in any order."""
    own, foreign = (_KINDS[2], _KINDS[3]) if source == "/path" else (_KINDS[3], _KINDS[2])
    for chosen in itertools.product(*(("", *kind) for kind in (_KINDS[0], _KINDS[1], own))):
        mode = ",".join(filter(None, chosen))
        found = parse_bind(f"{source}:/b:{mode}")
        assert (found.read_only, found.mode) == (chosen[0] == "ro", mode)
        assert found.propagation == ((chosen[2] or "rprivate") if source == "/path" else "")
        assert found.no_copy == (chosen[2] == "nocopy")
        for word in foreign:
            with pytest.raises(InvalidParameter, match="must not be specified"):
                parse_bind(f"{source}:/b:{','.join(filter(None, (*chosen, word)))}")


def test_volumes_from() -> None:
    assert parse_volumes_from("box") == ("box", False)
    assert parse_volumes_from("box:") == ("box", False)
    assert parse_volumes_from("box:rw,z") == ("box", False)
    assert parse_volumes_from("box:ro,Z,cached") == ("box", True)
    with pytest.raises(InvalidParameter, match=r"^volumes-from specification cannot be an empty string$"):
        parse_volumes_from("")
    for mode in ("what", "ro,rw", "rslave", "nocopy", "ro:z"):
        with pytest.raises(InvalidParameter, match=f"^invalid mode: {mode}$"):
            parse_volumes_from(f"box:{mode}")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"Target": "/b"}, 'invalid mount config for type "": mount type unknown'),
        ({"Type": "npipe", "Target": "/b"}, 'invalid mount config for type "npipe": mount type unknown'),
        ({"Type": "bind", "Source": "/a", "Target": "b"}, "invalid mount path: 'b' mount path must be absolute"),
        ({"Type": "volume", "Target": "/b", "TmpfsOptions": {}}, "field TmpfsOptions must not be specified"),
        ({"Type": "volume", "Source": "v", "Target": "/b", "VolumeOptions": {"Subpath": "/x"}}, "relative path"),
        ({"Type": "volume", "Source": "v", "Target": "/b", "VolumeOptions": {"Subpath": "a/../.."}}, "relative path"),
        ({"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"Options": [["suid"]]}}, "invalid option: suid"),
        ({"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"Options": [[]]}}, "invalid option array length"),
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
        ({"Type": "volume", "Target": "/b", "Consistency": "sometimes"}, "invalid consistency: sometimes"),
        *(
            ({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {name: True}}, f"!ReadOnly && .*{name}")
            for name in ("ReadOnlyNonRecursive", "ReadOnlyForceRecursive")
        ),
        (
            {
                "Type": "bind",
                "Source": "/a",
                "Target": "/b",
                "ReadOnly": True,
                "BindOptions": {"ReadOnlyNonRecursive": True},
            },
            "ReadOnlyNonRecursive is not supported",
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
