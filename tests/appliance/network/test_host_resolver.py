"""The host's resolv.conf(5), as moby's resolvconf.go reads and filters it."""

from pathlib import Path

import pytest

from appliance.network import host_resolver as module
from appliance.network.host_resolver import HostResolver, host_resolver, resolver_without_network


@pytest.fixture
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(module, "_SYSTEMD_RESOLV_CONF", tmp_path / "systemd.conf")
    return tmp_path / "resolv.conf"


def test_lines(resolv_conf: Path) -> None:
    assert host_resolver() == HostResolver()
    resolv_conf.write_text(
        "# nameserver 192.0.2.1\n;x\n\nnameserver\nnameserver x\nnameserver 127.0.0.1\nnameserver fe80::1%eth0 more\n"
        "domain a.example\nsearch b.example c.example\nsearch\noptions edns0\noptions rotate ndots:2\nsortlist 192.0.2.0\n"
    )
    assert host_resolver() == HostResolver(
        ("127.0.0.1", "fe80::1"), ("b.example", "c.example"), ("edns0", "rotate", "ndots:2"), ("sortlist 192.0.2.0",)
    )


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        (("192.0.2.1", "127.0.0.1", "fd00::1", "192.0.2.2"), ("192.0.2.1", "192.0.2.2")),
        (("127.0.0.1", "::1"), ("8.8.8.8", "8.8.4.4")),
        ((), ("8.8.8.8", "8.8.4.4")),
        (("127.0.0.53",), ("192.0.2.9",)),
        (("127.0.0.53", "192.0.2.1"), ("192.0.2.1",)),
    ],
)
def test_servers_for_a_container_without_a_network(
    resolv_conf: Path, servers: tuple[str, ...], found: tuple[str, ...]
) -> None:
    resolv_conf.write_text("".join(f"nameserver {server}\n" for server in servers) + "search own.example\n")
    resolv_conf.with_name("systemd.conf").write_text("nameserver 192.0.2.9\nsearch own.example\n")
    assert resolver_without_network() == HostResolver(found, ("own.example",))
