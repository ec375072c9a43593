"""The files and settings of a guest that follow from its container's endpoints, names, links and mounts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.host_config import HostConfig
from appliance.container.mounts import MountRecord
from appliance.engine.machines.guest_config import (
    GuestConfig,
    Link,
    network_config,
    own_mounts,
    state_files,
    volumes_of,
)
from appliance.engine.model.layout import first_layout
from appliance.engine.model.mount_plan import MountPlan, NfsVolume, PlacedMount
from appliance.guest import GuestVolume, Interface, NetworkConfig
from appliance.hypervisor import Nic
from appliance.network import host_resolver
from appliance.network.network_record import (
    EXTERNAL,
    OPTION_MTU,
    Address,
    Endpoint,
    NetworkRecord,
    Pool,
)
from tether.launch import oci

DEFAULT = NetworkRecord("1", "bridge", "bridge", 0, [Pool("10.11.0.0/24", gateway="10.11.0.1")])
FRONT = NetworkRecord("2", "front", "bridge", 0, options={OPTION_MTU: "1400"})
INNER = NetworkRecord("3", "inner", "bridge", 0, internal=True)
NONE = NetworkRecord("6", "none", "null", 0)
LAN = NetworkRecord("4", "lan", EXTERNAL, 0)
FIXED_LAN = NetworkRecord("5", "wan", EXTERNAL, 0, [Pool("192.0.2.0/24", "192.0.2.64-192.0.2.95", "192.0.2.1")])

HOSTS = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)


@pytest.fixture(autouse=True)
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The resolv.conf of the daemon's host."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.53\nsearch host.example\n")
    monkeypatch.setattr(host_resolver, "_RESOLV_CONF", path)
    return path


def _endpoint(
    network: NetworkRecord,
    third: int = 11,
    interface: str = "eth0",
    *,
    address: bool = True,
    six: str = "",
    bridge: str = "br0",
    wanted: EndpointSettings | None = None,
    servers: tuple[str, ...] = (),
    search: tuple[str, ...] = (),
) -> Endpoint:
    mac = f"02:42:0a:{third:02x}:00:02"
    ipv4 = Address(f"10.{third}.0.2", 24, f"10.{third}.0.1") if address else None
    ipv6 = Address(six, 64, "fd00::1") if six else None
    dns = f"10.{third}.0.1" if ipv4 is not None and not network.is_external else ""
    nic = Nic(mac, bridge=bridge)
    return Endpoint(network, "e", mac, ipv4, ipv6, dns, nic, interface, wanted or EndpointSettings(), servers, search)


def _files(
    endpoints: Sequence[Endpoint],
    host_config: HostConfig | None = None,
    *,
    dns: tuple[str, ...] = (),
    links: tuple[Link, ...] = (),
    domainname: str = "",
) -> dict[str, str]:
    config = ContainerConfig(hostname="box", domainname=domainname)
    guest_config = GuestConfig(list(endpoints), dns, links)
    return {file.name: file.content.decode() for file in state_files(config, host_config or HostConfig(), guest_config)}


@pytest.mark.parametrize(
    ("endpoints", "domainname", "lines"),
    [
        ([], "", ""),
        ([_endpoint(DEFAULT)], "", "10.11.0.2\tbox\n"),
        ([_endpoint(DEFAULT)], "example.org", "10.11.0.2\tbox.example.org box\n"),
        ([_endpoint(FRONT, six="fd00::2")], "", "10.11.0.2\tbox\nfd00::2\tbox\n"),
        ([_endpoint(FRONT), _endpoint(INNER, 12, "eth1")], "", "10.11.0.2\tbox\n10.12.0.2\tbox\n"),
        ([_endpoint(LAN, address=False)], "", ""),
    ],
)
def test_hosts_and_hostname(endpoints: list[Endpoint], domainname: str, lines: str) -> None:
    files = _files(endpoints, domainname=domainname)
    assert files["hosts"] == HOSTS + lines
    assert files["hostname"] == "box\n"


@pytest.mark.parametrize(
    ("hostname", "domainname", "names"),
    [
        ("web.example.org", "", "web.example.org web"),
        ("web.a", "example.org", "web.a.example.org web"),
        ("web", "org", "web.org web"),
        ("web", "", "web"),
    ],
)
def test_the_name_up_to_the_first_dot_is_an_alias(hostname: str, domainname: str, names: str) -> None:
    config = ContainerConfig(hostname=hostname, domainname=domainname)
    files = {file.name: file.content for file in state_files(config, HostConfig(), GuestConfig([_endpoint(DEFAULT)]))}
    assert files["hosts"] == f"{HOSTS}10.11.0.2\t{names}\n".encode()
    assert files["hostname"] == f"{hostname}\n".encode()


@pytest.mark.parametrize("nic", ["all", "lo"])
def test_without_ipv6_no_name_leads_to_an_ipv6_address(nic: str) -> None:
    host_config = HostConfig(
        sysctls={f"net.ipv6.conf.{nic}.disable_ipv6": "1"}, extra_hosts=["six:fd00::7", "four:192.0.2.7"]
    )
    hosts = _files([_endpoint(FRONT, six="fd00::2")], host_config)["hosts"]
    assert hosts == "127.0.0.1\tlocalhost\n192.0.2.7\tfour\n10.11.0.2\tbox\n"
    enabled = HostConfig(sysctls={f"net.ipv6.conf.{nic}.disable_ipv6": "0"})
    assert _files([], enabled)["hosts"] == HOSTS


def test_extra_hosts_and_links_come_before_the_container() -> None:
    host_config = HostConfig(extra_hosts=["db:192.0.2.7", "six:[fd00::7]", "plain:fd00::8", "gw:host-gateway"])
    links = (Link("store c0ffee db", "10.11.0.9", ()),)
    assert _files([_endpoint(DEFAULT)], host_config, links=links)["hosts"] == (
        f"{HOSTS}192.0.2.7\tdb\nfd00::7\tsix\nfd00::8\tplain\n10.11.0.1\tgw\n10.11.0.9\tstore c0ffee db\n10.11.0.2\tbox\n"
    )
    # Without a network there is no gateway to the host.
    assert _files([], HostConfig(extra_hosts=["gw:host-gateway"]))["hosts"] == HOSTS


@pytest.mark.parametrize(
    ("endpoints", "host_config", "dns", "text"),
    [
        ([], HostConfig(), (), "nameserver 192.0.2.53\nsearch host.example\n"),
        ([_endpoint(NONE, address=False, bridge="")], HostConfig(), (), "nameserver 192.0.2.53\nsearch host.example\n"),
        (
            [_endpoint(NONE, address=False, bridge="")],
            HostConfig(),
            ("192.0.2.1",),
            "nameserver 192.0.2.1\nsearch host.example\n",
        ),
        (
            [_endpoint(NONE, address=False, bridge="")],
            HostConfig(dns=["192.0.2.8"]),
            (),
            "nameserver 192.0.2.8\nsearch host.example\n",
        ),
        ([_endpoint(DEFAULT)], HostConfig(), (), "nameserver 10.11.0.1\nsearch host.example\n"),
        ([_endpoint(DEFAULT)], HostConfig(), ("192.0.2.1",), "nameserver 192.0.2.1\nsearch host.example\n"),
        (
            [_endpoint(DEFAULT)],
            HostConfig(dns=["192.0.2.8", "192.0.2.9"], dns_search=["a.example", "b.example"], dns_options=["rotate"]),
            ("192.0.2.1",),
            "nameserver 192.0.2.8\nnameserver 192.0.2.9\nsearch a.example b.example\noptions rotate\n",
        ),
        ([_endpoint(DEFAULT)], HostConfig(dns_search=["."]), (), "nameserver 10.11.0.1\n"),
        # On a network with names the daemon's server answers, whatever the container's own servers are.
        (
            [_endpoint(FRONT)],
            HostConfig(dns=["192.0.2.8"]),
            (),
            "nameserver 10.11.0.1\nsearch host.example\noptions ndots:0\n",
        ),
        (
            [_endpoint(FRONT)],
            HostConfig(dns_options=["ndots:2"]),
            (),
            "nameserver 10.11.0.1\nsearch host.example\noptions ndots:2\n",
        ),
        (
            [_endpoint(FRONT)],
            HostConfig(dns_options=["rotate", "ndots:x"]),
            (),
            "nameserver 10.11.0.1\nsearch host.example\noptions rotate ndots:0\n",
        ),
        ([_endpoint(INNER)], HostConfig(), (), "nameserver 10.11.0.1\nsearch host.example\noptions ndots:0\n"),
        # The search domains of an external network are its own.
        (
            [_endpoint(LAN, servers=("192.0.2.3",), search=("lan.example",))],
            HostConfig(),
            ("192.0.2.1",),
            "nameserver 192.0.2.3\nsearch lan.example\n",
        ),
        ([_endpoint(LAN)], HostConfig(), ("192.0.2.1",), "nameserver 192.0.2.1\n"),
        # The way out is the external network, which has no server of ours.
        (
            [_endpoint(INNER), _endpoint(LAN, 12, "eth1", servers=("192.0.2.3",))],
            HostConfig(),
            (),
            "nameserver 10.11.0.1\noptions ndots:0\n",
        ),
    ],
)
def test_resolv_conf(endpoints: list[Endpoint], host_config: HostConfig, dns: tuple[str, ...], text: str) -> None:
    assert _files(endpoints, host_config, dns=dns)["resolv.conf"] == text


def test_other_lines_of_the_host_are_copied(resolv_conf: Path) -> None:
    """As in moby's resolvconf.go: options and unknown directives. Those of an external network are its own."""
    resolv_conf.write_text("nameserver 192.0.2.53\noptions edns0\nsortlist 192.0.2.0\noptions rotate\n")
    tail = "options edns0 rotate\nsortlist 192.0.2.0\n"
    assert _files([])["resolv.conf"] == f"nameserver 192.0.2.53\n{tail}"
    assert _files([_endpoint(DEFAULT)])["resolv.conf"] == f"nameserver 10.11.0.1\n{tail}"
    named = "nameserver 10.11.0.1\noptions edns0 rotate ndots:0\nsortlist 192.0.2.0\n"
    assert _files([_endpoint(FRONT)])["resolv.conf"] == named
    assert _files([_endpoint(LAN, servers=("192.0.2.3",))])["resolv.conf"] == "nameserver 192.0.2.3\n"


def test_interfaces() -> None:
    link_local = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.3.4", "fe80::7"]))
    first, second = _endpoint(FRONT, wanted=link_local, six="fd00::2"), _endpoint(INNER, 12, "eth1")
    none = _endpoint(NetworkRecord("9", "none", "null", 0), interface="", address=False)
    assert network_config([none, first, second], 1) == NetworkConfig(
        [
            Interface(
                mac=first.mac,
                name="eth0",
                addresses=["10.11.0.2/24", "fd00::2/64", "169.254.3.4/16", "fe80::7/64"],
                gateways=["10.11.0.1", "fd00::1"],
                mtu=1400,
                index=0,
                set_mac=True,
            ),
            Interface(mac=second.mac, name="eth1", addresses=["10.12.0.2/24"], gateways=[], index=1),
        ],
        b"",
    )


def test_the_default_route_follows_the_priority() -> None:
    second = _endpoint(DEFAULT, 12, "eth1", wanted=EndpointSettings(gw_priority=5))
    found = network_config([_endpoint(FRONT), second]).interfaces
    assert [one.gateways for one in found] == [[], ["10.12.0.1"]]
    plain = network_config([_endpoint(FRONT), _endpoint(DEFAULT, 12, "eth1")]).interfaces
    # Without a priority the names decide: bridge, front.
    assert [one.gateways for one in plain] == [[], ["10.12.0.1"]]


def test_dhcp() -> None:
    (alone,) = network_config([_endpoint(LAN, address=False)]).interfaces
    assert (alone.dhcp, alone.dhcp_route, list(alone.addresses), list(alone.gateways)) == (True, True, [], [])
    # A lease is the guest's own affair.
    (leased,) = network_config([_endpoint(LAN)]).interfaces
    assert (list(leased.addresses), list(leased.gateways)) == ([], [])
    beside = network_config([_endpoint(LAN, 12, "eth1", address=False), _endpoint(DEFAULT)]).interfaces
    assert [(one.dhcp, one.dhcp_route) for one in beside] == [(True, False), (False, False)]


def test_external_networks_have_rules_in_the_guest() -> None:
    assert network_config([_endpoint(DEFAULT)]).filter == b""
    filtered = network_config([_endpoint(FIXED_LAN)]).filter
    assert b"eth0" in filtered
    # Rules that no endpoint needs any more are replaced.
    empty = network_config([_endpoint(DEFAULT)], filtered=True).filter
    assert empty
    assert b"eth0" not in empty


LAYOUT = first_layout([], 3)


def _placed(destination: str, **more: object) -> PlacedMount:
    mount = MountRecord("volume", destination, "v")
    for name in ("read_only", "no_copy", "subpath"):
        if name in more:
            setattr(mount, name, more.pop(name))
    return PlacedMount(mount, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("placed", "expected"),
    [
        (_placed("/d", disk=1), GuestVolume("/run/tether/disks/1/data", "/d", False, True, True)),
        (
            _placed("/d", disk=0, read_only=True, no_copy=True),
            GuestVolume("/run/tether/disks/0/data", "/d", True, False, True),
        ),
        (
            _placed("/d", disk=0, subpath="a/b"),
            GuestVolume("/run/tether/disks/0/data/a/b", "/d", False, False, False),
        ),
        (_placed("/d", tmpfs_volume=1), GuestVolume("/run/tether/tmpfs/1", "/d", False, False, False)),
        (
            _placed("/d", tmpfs_volume=0, subpath="a", read_only=True),
            GuestVolume("/run/tether/tmpfs/0/a", "/d", True, False, False),
        ),
        (_placed("/d", share=2), GuestVolume("/run/tether/shares/2", "/d", False, True, False)),
        (
            PlacedMount(MountRecord("bind", "/d", source="/srv"), share=0),
            GuestVolume("/run/tether/shares/0", "/d", False, False, False),
        ),
        (
            _placed("/d", server=NfsVolume(3, "192.0.2.1:/x", ("vers=4.2",))),
            GuestVolume(
                "/run/tether/served/3",
                "/d",
                False,
                True,
                True,
                "nfs4",
                "192.0.2.1:/x",
                ["vers=4.2", "clientaddr=10.11.0.2"],
            ),
        ),
    ],
)
def test_volumes(placed: PlacedMount, expected: GuestVolume) -> None:
    assert volumes_of(MountPlan((placed,)), LAYOUT, [_endpoint(DEFAULT)]) == [expected]
    (mount,) = own_mounts(MountPlan((placed,)), LAYOUT)
    assert (mount.destination, mount.type, mount.source) == ("/d", "bind", expected.source)
    assert ("ro" in mount.options) == expected.read_only


def test_inner_volumes_come_after_outer_ones() -> None:
    plan = MountPlan((_placed("/a/b/c", disk=0), _placed("/a", disk=1), _placed("/a/b", disk=2)))
    assert [one.destination for one in volumes_of(plan, LAYOUT)] == ["/a", "/a/b", "/a/b/c"]


def test_volumes_without_a_network() -> None:
    plan = MountPlan((_placed("/nfs", server=NfsVolume(0, "192.0.2.1:/x", ())), _placed("/tmp", tmpfs=("size=1m",))))
    assert volumes_of(plan, LAYOUT) == []
    mounts = own_mounts(plan, LAYOUT)
    assert [(mount.destination, mount.type) for mount in mounts] == [("/nfs", "bind"), ("/tmp", "tmpfs")]
    assert isinstance(mounts[1], oci.Mount)
    assert "size=1m" in mounts[1].options
