"""Netlink messages of pyroute2, as values. `test_host.py` runs the calls against a kernel."""

from typing import Any

from appliance.network.netlink import Link, Netlink


class _Message(dict[str, Any]):
    """A message as pyroute2 decodes it: fields by index, attributes by name."""

    def __init__(self, fields: dict[str, Any], **attributes: Any) -> None:
        super().__init__(fields)
        self.attributes = attributes

    def get_attr(self, name: str) -> Any:
        return self.attributes.get(name)

    def get_nested(self, *names: str) -> Any:
        return self.attributes.get("/".join(names))


class _Route:
    """An IPRoute with a bridge, an interface, and routes."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def get_links(self, index: int | None = None) -> list[_Message]:
        bridge = {"IFLA_IFNAME": "br0", "IFLA_IFALIAS": "vch test", "IFLA_LINKINFO/IFLA_INFO_KIND": "bridge"}
        links = [_Message({"index": 1}, IFLA_IFNAME="eth0"), _Message({"index": 2}, **bridge)]
        return [link for link in links if index in (None, link["index"])]

    def link_lookup(self, ifname: str) -> list[int]:
        return {"eth0": [1], "br0": [2]}.get(ifname, [])

    def get_addr(self, index: int) -> list[_Message]:
        return [_Message({"prefixlen": 24}, IFA_ADDRESS="10.9.0.1"), _Message({"prefixlen": 64}, IFA_ADDRESS="fe80::1")]

    def get_routes(self, family: int, table: int) -> list[_Message]:
        assert table == 254
        if family == 2:
            return [_Message({"dst_len": 0}), _Message({"dst_len": 24}, RTA_DST="10.9.0.0")]
        return [_Message({"dst_len": 64}, RTA_DST="fd00::")]

    def addr(self, command: str, **fields: Any) -> None:
        self.calls.append((command, fields))


def test_links() -> None:
    netlink = Netlink(_Route())
    assert netlink.links() == [Link(1, "eth0", "", ""), Link(2, "br0", "bridge", "vch test")]
    assert netlink.find_link("br0") == Link(2, "br0", "bridge", "vch test")
    assert netlink.find_link("none") is None


def test_addresses() -> None:
    route = _Route()
    netlink, bridge = Netlink(route), Link(2, "br0", "bridge", "")
    assert netlink.addresses(bridge) == ["10.9.0.1/24", "fe80::1/64"]
    netlink.add_address(bridge, "10.9.0.1/24")
    netlink.remove_address(bridge, "fd00::1/64")
    assert route.calls == [
        ("add", {"index": 2, "address": "10.9.0.1", "prefixlen": 24}),
        ("del", {"index": 2, "address": "fd00::1", "prefixlen": 64}),
    ]


def test_routes_without_the_default_route() -> None:
    assert [str(subnet) for subnet in Netlink(_Route()).routes()] == ["10.9.0.0/24", "fd00::/64"]
