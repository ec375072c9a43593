"""The OVF properties of an appliance: what there is, and what a set of values means (DSP0243, 9.5)."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from appliance.config import parse_container_network, parse_rule, parse_size
from appliance.diag.shipping import parse_server
from appliance.errors import InvalidParameter

T = TypeVar("T")
ROLES = ("public", "bridge", "client", "management")


@dataclass(frozen=True, slots=True)
class Property:
    """`kind` is that of the descriptor; a secret one is not shown, and is taken by the appliance once; it keeps all but what is of
    use `once` only.
    """

    key: str
    category: str
    label: str
    description: str = ""
    default: str = ""
    kind: Literal["string", "boolean"] = "string"
    secret: bool = False
    once: bool = False


_NETWORK, _VSPHERE, _DOCKER, _TLS, _ACCESS = "Network", "vSphere", "Docker", "TLS", "Access to the appliance"

PROPERTIES = (
    Property("hostname", _NETWORK, "Host name", "Of the appliance; else what DHCP says, or vch."),
    Property(
        "interfaces",
        _NETWORK,
        "Networks of the NICs",
        "What each NIC is on, in order: public (published ports, the way out), bridge (containers), client (the API), management "
        "(vSphere). What is left out of client and management is on the public network.",
        "public,bridge",
    ),
    Property("public-address", _NETWORK, "Public address", "dhcp, or address and prefix, as 192.0.2.10/24.", "dhcp"),
    Property("public-gateway", _NETWORK, "Public gateway", "The default route, with an address that is not DHCP's."),
    Property("client-address", _NETWORK, "Client address", "Where there is a NIC on the client network.", "dhcp"),
    Property("client-routes", _NETWORK, "Client routes", "SUBNET=GATEWAY, with commas between."),
    Property(
        "management-address", _NETWORK, "Management address", "Where there is a NIC on the management network.", "dhcp"
    ),
    Property("management-routes", _NETWORK, "Management routes", "SUBNET=GATEWAY, with commas between."),
    Property("dns", _NETWORK, "DNS servers", "With commas between; else DHCP's."),
    Property("search", _NETWORK, "Search domains", "With commas between; else DHCP's."),
    Property("ntp", _NETWORK, "Time servers", "With commas between; else Debian's."),
    Property("vsphere", _VSPHERE, "vCenter or ESXi", "HOST or HOST:PORT."),
    Property("vsphere-user", _VSPHERE, "User"),
    Property("vsphere-password", _VSPHERE, "Password", secret=True),
    Property(
        "vsphere-login",
        _VSPHERE,
        "Login",
        "password, or extension: the appliance registers itself as an extension of the vCenter, with a certificate of its own, in the "
        "session that the ticket is for. User and password are not needed then.",
        "password",
    ),
    Property(
        "vsphere-ticket",
        _VSPHERE,
        "Ticket",
        "For one session, as vch makes it; soon of no use.",
        secret=True,
        once=True,
    ),
    Property(
        "vsphere-tunnel-port", _VSPHERE, "Port of the tunnel", "Of the vCenter, where extensions log in; 0: none.", "80"
    ),
    Property("thumbprint", _VSPHERE, "Thumbprint", "Of the server's certificate, SHA-1 or SHA-256; or its CA, below."),
    Property("vsphere-ca", _VSPHERE, "CA", "Of the server's certificate: PEM, or base64 of it."),
    Property("tenant", _VSPHERE, "Tenant", "In whose name machines are made and folders are called.", "vch"),
    Property("datacenter", _VSPHERE, "Datacenter", "Where there are several."),
    Property("compute-resource", _VSPHERE, "Compute resource", "A cluster or host, or CLUSTER/POOL."),
    Property("vm-folder", _VSPHERE, "Folder of machines"),
    Property("image-store", _VSPHERE, "Image store", "The datastore of images and machines."),
    Property(
        "volume-stores",
        _VSPHERE,
        "Volume stores",
        "NAME=DATASTORE or NAME=nfs://SERVER/PATH?uid=UID&gid=GID, with commas between.",
    ),
    Property(
        "bridge-network", _VSPHERE, "Bridge network", "The portgroup that containers are on, and the bridge NIC too."
    ),
    Property(
        "container-networks",
        _VSPHERE,
        "Container networks",
        "Portgroups that are networks for containers, as vchd's --container-network has them, with semicolons between: "
        "name=NAME,portgroup=PORTGROUP,subnet=CIDR,gateway=IP,range=IP-IP,dns=IP,firewall=LEVEL.",
    ),
    Property(
        "vspc-allow",
        _VSPHERE,
        "Hosts",
        "CIDRs from where serial ports may come, with commas between; else from everywhere.",
    ),
    Property("vm-firmware", _VSPHERE, "Firmware of machines", "efi or bios.", "efi"),
    Property("vm-group", _VSPHERE, "Group of machines", "Of the cluster's, for DRS rules; made if it is not there."),
    Property(
        "vm-names",
        _VSPHERE,
        "Names of machines",
        "Text with {name}, {id} and {tenant} of the container.",
        "{name}-{id}",
    ),
    Property("bip", _DOCKER, "Bridge address", "Of the default network's gateway, as 172.17.0.1/16."),
    Property("vm-memory", _DOCKER, "Memory of a machine", "MiB, for containers that say none.", "256"),
    Property(
        "vm-pool",
        _DOCKER,
        "Machines that wait",
        "For containers to come: InstantClones, of a vCenter from 6.7 on. None by default.",
        "0",
    ),
    Property(
        "storage-quota",
        _DOCKER,
        "Storage quota",
        "What images and containers may take together, as 100g; else all there is.",
    ),
    Property("labels", _DOCKER, "Labels", "NAME=VALUE, with commas between."),
    Property("insecure-registries", _DOCKER, "Insecure registries", "With commas between."),
    Property("registry-mirrors", _DOCKER, "Mirrors", "With commas between."),
    Property("allow-registries", _DOCKER, "Allowed registries", "With commas between; else all."),
    Property("registry-ca", _DOCKER, "CA of registries", "PEM, or base64 of it."),
    Property("http-proxy", _DOCKER, "HTTP proxy"),
    Property("https-proxy", _DOCKER, "HTTPS proxy"),
    Property("no-proxy", _DOCKER, "No proxy for", "With commas between."),
    Property("log-level", _DOCKER, "Log level", "debug, info, warn, error or fatal.", "info"),
    Property(
        "syslog-address",
        _DOCKER,
        "Syslog server",
        "Where vchd's own log goes, too: udp, tcp or tcp+tls://HOST or HOST:PORT.",
    ),
    Property(
        "tls-ca",
        _TLS,
        "CA of clients",
        "PEM, or base64 of it: who has a certificate of it may use the API. Without one the API is not served, unless Verify is off.",
    ),
    Property("tls-verify", _TLS, "Verify clients", "Off: whoever reaches the API may do all.", "true", kind="boolean"),
    Property(
        "tls-cert",
        _TLS,
        "Certificate",
        "Of the API: PEM, or base64 of it; else one that the appliance makes for itself.",
    ),
    Property("tls-key", _TLS, "Key", "Of that certificate: PEM, or base64 of it.", secret=True),
    Property(
        "tls-allow",
        _TLS,
        "Who may what",
        "full:CN=NAME, read:OU=UNIT and so on, with commas between; else all may all.",
    ),
    Property("ssh", _ACCESS, "SSH", "On the client network.", "false", kind="boolean"),
    Property("ssh-key", _ACCESS, "SSH key", "A public key that root may log in with."),
    Property("root-password", _ACCESS, "Password of root", "For the console and SSH; else there is none.", secret=True),
)
BY_KEY = {one.key: one for one in PROPERTIES}
_LEVELS = ("debug", "info", "warn", "error", "fatal")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.I)


@dataclass(frozen=True, slots=True)
class Interface:
    """A NIC: its roles, its address (None is DHCP's), its ways."""

    roles: tuple[str, ...]
    address: ipaddress.IPv4Interface | None = None
    gateway: ipaddress.IPv4Address | None = None
    routes: tuple[tuple[ipaddress.IPv4Network, ipaddress.IPv4Address], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the values say. `vchd` holds those that become settings of vchd's file, by their names there."""

    hostname: str
    interfaces: tuple[Interface, ...]
    dns: tuple[str, ...]
    search: tuple[str, ...]
    ntp: tuple[str, ...]
    vchd: dict[str, object]
    verify: bool
    tls_ca: str
    tls_cert: str
    tls_key: str
    vsphere_ca: str
    registry_ca: str
    password: str
    ticket: str
    ssh: bool
    ssh_key: str
    root_password: str


class Malformed(InvalidParameter):
    """All that is wrong with the values, one line each, by the property's name. Never a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def settings_of(values: Mapping[str, str]) -> Settings:
    """What the properties mean. Malformed names all that is wrong with them; an unknown one is no mistake (a newer vCenter's)."""
    reader = _Reader(values)
    read = reader.read
    interfaces = reader.interfaces()
    vchd: dict[str, object] = {"hypervisor": "vsphere"}
    for key in (
        "vsphere",
        "vsphere-user",
        "thumbprint",
        "tenant",
        "datacenter",
        "compute-resource",
        "vm-folder",
        "image-store",
        "bridge-network",
        "vm-group",
    ):
        if value := reader.text(key):
            vchd[key] = value
    by_extension = read("vsphere-login", _one_of("password", "extension"), "password") == "extension"
    if by_extension:
        vchd.pop("vsphere-user", None)
        vchd["vsphere-extension"] = f"vch.{reader.text('tenant')}"
        vchd["vsphere-tunnel-port"] = read("vsphere-tunnel-port", _port, 80)
    for key in ("vsphere", *(() if by_extension else ("vsphere-user",)), "bridge-network"):
        if key not in vchd:
            reader.problems.append(f"{key}: has to be said")
    vchd |= {
        "vm-firmware": read("vm-firmware", _one_of("efi", "bios"), ""),
        "vm-names": reader.text("vm-names"),
        "log-level": read("log-level", _one_of(*_LEVELS), ""),
        "vm-memory": read("vm-memory", _mebibytes, 0),
        "vm-pool": read("vm-pool", _count, 0),
    }
    for key, check in (
        ("bip", lambda text: str(ipaddress.IPv4Interface(text))),
        ("storage-quota", _checked(parse_size)),
        ("syslog-address", _checked(parse_server)),
    ):
        if reader.text(key):
            vchd[key] = read(key, check, "")
    for key, check in (
        ("volume-stores", _pair),
        ("vspc-allow", _subnet),
        ("labels", str),
        ("insecure-registries", str),
        ("registry-mirrors", str),
        ("allow-registries", str),
    ):
        if found := reader.all(key, check):
            vchd[key] = found
    if networks := reader.all("container-networks", _container_network, ";"):
        vchd["container-networks"] = networks
    if proxies := {key: value for key in ("http-proxy", "https-proxy", "no-proxy") if (value := reader.text(key))}:
        vchd["proxies"] = proxies
    verify = read("tls-verify", _boolean, True)
    rules = reader.all("tls-allow", _checked(parse_rule))
    if rules and not verify:
        reader.problems.append("tls-allow: needs tls-verify, without which nobody says who he is")
    elif rules:
        vchd["tls-allow"] = rules
    certificate, private = read("tls-cert", _certificates, ""), read("tls-key", _key, "")
    if bool(certificate) != bool(private):
        reader.problems.append("tls-cert, tls-key: there is one without the other")
    elif certificate and _public_of(certificate) != _public_of_key(private):
        reader.problems.append("tls-cert, tls-key: the key is not the certificate's")
    settings = Settings(
        hostname=read("hostname", _hostname, ""),
        interfaces=interfaces,
        dns=tuple(reader.all("dns", lambda text: str(ipaddress.ip_address(text)))),
        search=tuple(reader.all("search", _hostname)),
        ntp=tuple(reader.all("ntp", _hostname)),
        vchd=vchd,
        verify=verify,
        tls_ca=read("tls-ca", _certificates, ""),
        tls_cert=certificate,
        tls_key=private,
        vsphere_ca=read("vsphere-ca", _certificates, ""),
        registry_ca=read("registry-ca", _certificates, ""),
        password="" if by_extension else values.get("vsphere-password", ""),
        ticket=values.get("vsphere-ticket", "") if by_extension else "",
        ssh=read("ssh", _boolean, False),
        ssh_key=read("ssh-key", public_key, ""),
        root_password=values.get("root-password", ""),
    )
    if not settings.password and not by_extension:
        reader.problems.append("vsphere-password: has to be said")
    if reader.problems:
        raise Malformed(reader.problems)
    return settings


class _Reader:
    """Values by key. What is wrong with them is gathered, and never holds a secret."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[str] = []

    def text(self, key: str) -> str:
        return self._values.get(key, BY_KEY[key].default).strip()

    def read(self, key: str, check: Callable[[str], T], otherwise: T) -> T:
        """The value, as `check` makes it; what that raises is a problem."""
        try:
            return check(self.text(key))
        except (ValueError, InvalidParameter) as error:
            self.problems.append(f"{key}: {'malformed' if BY_KEY[key].secret else error}")
            return otherwise

    def all(self, key: str, check: Callable[[str], T], between: str = ",") -> list[T]:
        """Of a value with commas, or something else, between."""
        parts = [part.strip() for part in self.text(key).split(between) if part.strip()]
        return self.read(key, lambda _: [check(part) for part in parts], [])

    def interfaces(self) -> tuple[Interface, ...]:
        names = [part.strip() for part in self.text("interfaces").split(",") if part.strip()]
        if unknown := sorted(set(names) - set(ROLES)):
            self.problems.append(f"interfaces: {', '.join(unknown)} is none of {', '.join(ROLES)}")
            return ()
        if len(set(names)) != len(names):
            self.problems.append("interfaces: a network is named twice")
            return ()
        if missing := [name for name in ROLES[:2] if name not in names]:
            self.problems.append(f"interfaces: {', '.join(missing)} has to be there")
            return ()
        return tuple(self._interface(name, names) for name in names)

    def _interface(self, name: str, names: Iterable[str]) -> Interface:
        if name == "bridge":
            # Its addresses are vchd's.
            return Interface((name,))
        address = self.read(f"{name}-address", _address, None)
        if name != "public":
            return Interface((name,), address, None, tuple(self.all(f"{name}-routes", _route)))
        roles = (name, *(other for other in ROLES[2:] if other not in names))
        gateway = self.read("public-gateway", _gateway, None)
        if address is not None and gateway is not None and gateway not in address.network:
            self.problems.append(f"public-gateway: {gateway} is not in {address.network}")
        return Interface(roles, address, gateway)


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return check


def _boolean(text: str) -> bool:
    return _one_of("true", "false")(text.lower()) == "true"


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or not 64 <= int(text) <= 1 << 20:
        raise ValueError(f"{text!r} is no number of MiB")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 1000:
        raise ValueError(f"{text!r} is no number of machines")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 0xFFFF:
        raise ValueError(f"{text!r} is no port")
    return int(text)


def _hostname(text: str) -> str:
    if text and not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a host")
    return text


def _address(text: str) -> ipaddress.IPv4Interface | None:
    if text.lower() == "dhcp":
        return None
    if "/" not in text:
        raise ValueError(f"{text!r} is neither dhcp nor an address and prefix, as 192.0.2.10/24")
    return ipaddress.IPv4Interface(text)


def _gateway(text: str) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(text) if text else None


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """The text itself, if it can be parsed."""

    def check(text: str) -> str:
        parse(text)
        return text

    return check


def _route(text: str) -> tuple[ipaddress.IPv4Network, ipaddress.IPv4Address]:
    subnet, _, gateway = text.partition("=")
    return ipaddress.IPv4Network(subnet), ipaddress.IPv4Address(gateway)


def _subnet(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def _container_network(text: str) -> str:
    try:
        parse_container_network(text)
    except InvalidParameter as error:
        raise ValueError(str(error).removeprefix("--container-network ")) from error
    return text


def _pair(text: str) -> str:
    name, _, value = text.partition("=")
    if not name or not value:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return text


def pem(text: str) -> str:
    """PEM, from PEM whose line ends may have become blanks on the way through a form, or from base64 of it. ValueError."""
    if not text:
        return ""
    if "-----BEGIN" not in text:
        try:
            text = base64.b64decode(text, validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError("neither PEM nor base64 of it") from error
    blocks = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----\s*(.*?)\s*-----END \1-----", text, re.S)
    if not blocks:
        raise ValueError("no PEM")
    out = []
    for name, body in blocks:
        digits = re.sub(r"\s+", "", body)
        lines = [digits[start : start + 64] for start in range(0, len(digits), 64)]
        out.append("\n".join((f"-----BEGIN {name}-----", *lines, f"-----END {name}-----")))
    return "\n".join(out) + "\n"


def _certificates(text: str) -> str:
    found = pem(text)
    if found:
        x509.load_pem_x509_certificates(found.encode())
    return found


def _public_of(certificates: str) -> bytes:
    return _plain(x509.load_pem_x509_certificates(certificates.encode())[0].public_key())


def _public_of_key(private: str) -> bytes:
    return _plain(load_pem_private_key(private.encode(), None).public_key())


def _plain(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key(text: str) -> str:
    found = pem(text)
    if found:
        try:
            load_pem_private_key(found.encode(), None)
        except TypeError as error:
            raise ValueError("it has a password") from error
    return found


def public_key(text: str) -> str:
    """A public key in one line, or nothing. ValueError."""
    if text and not re.fullmatch(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?", text):
        raise ValueError("no public key in one line, as ssh-ed25519 AAAA... NAME")
    return text
