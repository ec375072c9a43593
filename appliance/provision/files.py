"""The files that an appliance's settings become: those of networkd, nftables, vchd and the console. Pure functions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from appliance import __version__
from appliance.provision.interfaces import Interface
from appliance.provision.properties import FOLDER, Settings

API_PORT, SERIAL_PORT, QUICK_PORT = 2376, 2377, 2378
BRIDGE = "vch0"
_STATE = "/data/vch"


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC of this machine."""

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class File:
    """The content of a file, and who may read it: root alone, root and vchd (`shared`), or every user (`public`)."""

    content: str
    shared: bool = False
    public: bool = False


def files_of(settings: Settings, nics: Sequence[Nic], certificate: str, key: str, fingerprint: str) -> dict[str, File]:
    """The files by path.

    `nics` are the NICs of `settings.interfaces`, in the same order. `certificate` and `key` are the API's, PEM; `fingerprint` is shown
    on the console.
    """
    pairs = list(zip(settings.interfaces, nics, strict=True))
    files = {
        f"/run/systemd/network/10-{interface.roles[0]}.network": File(_network(settings, interface, nic), public=True)
        for interface, nic in pairs
    }
    files[f"{FOLDER}/firewall.nft"] = File(_firewall(settings, pairs))
    for name, content in {**settings.files, "cert.pem": certificate, "key.pem": key}.items():
        if content:
            files[f"{FOLDER}/{name}"] = File(content, shared=True)
    if settings.ssh:
        files[f"{FOLDER}/ssh"] = files[f"{FOLDER}/ssh-stays"] = File("")
    files[f"{FOLDER}/authorized_keys"] = File(f"{settings.ssh_key}\n" if settings.ssh_key else "")
    bridge = next(nic.name for interface, nic in pairs if "bridge" in interface.roles)
    files[f"{FOLDER}/vchd.json"] = File(_vchd(settings, bridge), shared=True)
    files["/run/issue.d/vch.issue"] = File(_console(settings, pairs, fingerprint), public=True)
    return files


def serves(settings: Settings) -> bool:
    """Whether the appliance serves the API on the network: when it can verify clients, or verification is off."""
    return bool(settings.tls_ca) or not settings.verify


def problems_on_console(problems: Sequence[str]) -> str:
    """The console's text when the properties are malformed."""
    lines = [
        f"vch {__version__}",
        "",
        "vchd does not start. Power the appliance off and correct these OVF properties:",
        "",
    ]
    return "\n".join([*lines, *(f"  {_plain(problem)}" for problem in problems), "", ""])


def _plain(text: str) -> str:
    """Printable text for agetty, which interprets backslashes."""
    return "".join(char for char in text if char.isprintable()).replace("\\", "\\\\")


def _network(settings: Settings, interface: Interface, nic: Nic) -> str:
    lines = ["[Match]", f"MACAddress={nic.mac}", "Type=ether", ""]
    if "bridge" in interface.roles:
        # vchd makes this NIC a port of its bridge.
        return "\n".join([*lines, "[Link]", "Unmanaged=yes", ""])
    is_default_route = "public" in interface.roles
    lines += ["[Network]", f"DHCP={'no' if interface.address else 'ipv4'}"]
    if interface.address:
        lines.append(f"Address={interface.address}")
    if interface.gateway:
        lines.append(f"Gateway={interface.gateway}")
    if is_default_route:
        lines += [f"DNS={server}" for server in settings.dns]
        lines += [f"NTP={server}" for server in settings.ntp]
        if settings.search:
            lines.append(f"Domains={' '.join(settings.search)}")
    lines += ["", "[DHCPv4]", f"UseDNS={'no' if settings.dns else 'yes'}", f"UseNTP={'no' if settings.ntp else 'yes'}"]
    lines += [f"UseDomains={'no' if settings.search else 'yes'}", f"UseRoutes={'yes' if is_default_route else 'no'}"]
    lines += [f"UseGateway={'yes' if is_default_route else 'no'}"]
    if settings.hostname:
        lines += [f"Hostname={settings.hostname}"]
    for subnet, gateway in interface.routes:
        lines += ["", "[Route]", f"Destination={subnet}", f"Gateway={gateway}"]
    return "\n".join([*lines, ""])


def _firewall(settings: Settings, pairs: Sequence[tuple[Interface, Nic]]) -> str:
    def names(role: str) -> str:
        return "{ " + ", ".join(f'"{nic.name}"' for interface, nic in pairs if role in interface.roles) + " }"

    own = f"22, {API_PORT}, {SERIAL_PORT}, {QUICK_PORT}"
    rules = [
        'iifname "lo" accept',
        "ct state established,related accept",
        "ct state invalid drop",
        "meta l4proto { icmp, ipv6-icmp } accept",
        "udp sport 67 udp dport 68 accept",
        f"iifname {names('client')} tcp dport {API_PORT} accept",
        f"iifname {names('management')} tcp dport {SERIAL_PORT} accept",
        # Containers ask vchd's DNS server; their guests connect to vchd by TCP.
        f'iifname "{BRIDGE}" meta l4proto {{ tcp, udp }} th dport 53 accept',
        f'iifname "{BRIDGE}" tcp dport {QUICK_PORT} accept',
    ]
    rules.append(f"iifname {names('client')} jump ssh")
    # Published ports that nftables does not forward (IPv6) are sockets of vchd. No other program listens on these ports.
    rules.append(f"iifname {names('public')} tcp dport != {{ {own} }} accept")
    rules.append(f"iifname {names('public')} udp dport >= 1024 accept")
    body = "\n".join(f"        {rule}" for rule in rules)
    return (
        "table inet vch_appliance\ndelete table inet vch_appliance\ntable inet vch_appliance {\n"
        f"    chain ssh {{\n{'        tcp dport 22 accept' if settings.ssh else ''}\n    }}\n    chain input {{\n"
        f"        type filter hook input priority filter; policy drop;\n{body}\n    }}\n}}\n"
    )


def _vchd(settings: Settings, bridge: str) -> str:
    """vchd's configuration file: the settings of the properties, and those that are the same for every appliance."""
    content = dict(settings.vchd)
    hosts = ["unix:///run/vch/docker.sock"]
    unused: tuple[str, ...] = ()
    if serves(settings):
        hosts.append(f"tcp://0.0.0.0:{API_PORT}")
        content |= {"tls": True, "tlscert": f"{FOLDER}/cert.pem", "tlskey": f"{FOLDER}/key.pem"}
        if settings.verify:
            content["tlsverify"] = True
        else:
            unused = ("tlscacert",)
    else:
        unused = ("tls-allow", "tlscacert", "tlscert", "tlskey")
    for key in unused:
        content.pop(key, None)
    content |= {
        "hosts": hosts,
        "data-root": _STATE,
        "exec-root": "/run/vch",
        "bridge": BRIDGE,
        "bridge-interface": bridge,
        "vspc-listen": f"0.0.0.0:{SERIAL_PORT}",
        "quick-port": QUICK_PORT,
    }
    return json.dumps(content, indent=1) + "\n"


def _console(settings: Settings, pairs: Sequence[tuple[Interface, Nic]], fingerprint: str) -> str:
    r"""An issue(5) file for agetty, which fills in the current address of a NIC for \4{NIC}."""
    lines = [f"vch {__version__}, tenant {_plain(str(settings.vchd.get('tenant', '')))}", ""]
    client = next(nic.name for interface, nic in pairs if "client" in interface.roles)
    if serves(settings):
        lines.append(
            f"Docker API   DOCKER_HOST=tcp://\\4{{{client}}}:{API_PORT} {'DOCKER_TLS_VERIFY=1' if settings.verify else '(TLS)'}"
        )
        lines.append(f"Certificate  SHA-256 {fingerprint}")
        if not settings.verify:
            lines.append(
                "             CLIENTS ARE NOT VERIFIED: every client that reaches this address has full access (property tls-verify)"
            )
    else:
        lines.append("Docker API   not served by network: there is no CA to verify clients with (property tls-ca)")
    lines.append("")
    for interface, nic in pairs:
        if "bridge" not in interface.roles:
            lines.append(f"{nic.name:12} \\4{{{nic.name}}}  {', '.join(interface.roles)}")
    lines.append(f"SSH          {'on' if settings.ssh else 'off'}")
    return "\n".join([*lines, "", ""])
