"""The settings of the appliance around vchd: its NICs, its host name, SSH. They are OVF properties, and options of `vch create`."""

from appliance.config.parsers import check_address, check_host_name
from appliance.config.rows import ACCESS, APPLIANCE_NETWORK, REGISTRIES, Option, Property, Setting, completed

# The roles of the appliance's networks. The first two always have a NIC; the others are on the public network unless they have one.
ROLES = ("public", "bridge", "client", "management")


def _address(role: str, help: str) -> Setting:
    names = (f"--{role}-address", f"--{role}-network-ip")
    return Setting(
        name=f"{role}-address",
        group=APPLIANCE_NETWORK,
        help=help,
        default="dhcp",
        property=Property(label=f"{role.capitalize()} address"),
        option=Option(names=names, metavar="ADDRESS/PREFIX"),
    )


def _routes(role: str) -> Setting:
    return Setting(
        name=f"{role}-routes",
        group=APPLIANCE_NETWORK,
        help=f"Routes of the {role} network, SUBNET=GATEWAY",
        kind="list",
        property=Property(label=f"{role.capitalize()} routes"),
        option=Option(names=(f"--{role}-routes",), metavar="SUBNET=GATEWAY"),
    )


_ROWS = (
    Setting(
        name="hostname",
        group=APPLIANCE_NETWORK,
        help="Host name of the appliance (default: the name from DHCP, or vch)",
        check=check_host_name,
        property=Property(label="Host name"),
        option=Option(names=("--hostname",)),
    ),
    Setting(
        name="interfaces",
        group=APPLIANCE_NETWORK,
        help="Networks of the NICs, in the order of the NICs: public (published ports, the default route), bridge (containers), client "
        "(the API), management (vSphere). Without a NIC of their own, client and management share the public network",
        kind="list",
        property=Property(label="Networks of the NICs", default="public,bridge"),
    ),
    _address("public", "Address on the public network: dhcp, or address and prefix, for example 192.0.2.10/24"),
    Setting(
        name="public-gateway",
        group=APPLIANCE_NETWORK,
        help="Gateway of the default route, when the public address does not come from DHCP",
        property=Property(label="Public gateway"),
        option=Option(names=("--public-gateway", "--public-network-gateway"), metavar="ADDRESS"),
    ),
    _address("client", "Address on the client network, if a NIC is on it"),
    _routes("client"),
    _address("management", "Address on the management network, if a NIC is on it"),
    _routes("management"),
    Setting(
        name="dns",
        group=APPLIANCE_NETWORK,
        help="DNS server of the appliance (default: the servers from DHCP)",
        kind="list",
        check=check_address,
        property=Property(label="DNS servers"),
        option=Option(names=("--dns", "--dns-server")),
    ),
    Setting(
        name="search",
        group=APPLIANCE_NETWORK,
        help="DNS search domain of the appliance (default: the domains from DHCP)",
        kind="list",
        check=check_host_name,
        property=Property(label="Search domains"),
        option=Option(names=("--search-domain",)),
    ),
    Setting(
        name="ntp",
        group=APPLIANCE_NETWORK,
        help="Time server of the appliance (default: Debian's)",
        kind="list",
        check=check_host_name,
        property=Property(label="Time servers"),
        option=Option(names=("--ntp",)),
    ),
    Setting(
        name="registry-ca",
        group=REGISTRIES,
        help="CAs of registries",
        property=Property(label="CA of registries", content="certificates"),
        option=Option(names=("--registry-ca",)),
    ),
    Setting(
        name="ssh",
        group=ACCESS,
        help="SSH server on the client network",
        property=Property(label="SSH", default="false", type="boolean"),
    ),
    Setting(
        name="ssh-key",
        group=ACCESS,
        help="Public key with which root may log in by SSH",
        property=Property(label="SSH key", content="public key"),
        option=Option(names=("--ssh-key",)),
    ),
    Setting(
        name="root-password",
        group=ACCESS,
        help="Password of root on the console and by SSH (default: root has no password)",
        property=Property(label="Password of root", secret=True),
    ),
)
APPLIANCE = tuple(completed(row) for row in _ROWS)
