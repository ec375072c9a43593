"""What the settings of an appliance are as files: of networkd, nftables, vchd, the console. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from appliance import __version__
from appliance.provision.properties import Interface, Settings

API_PORT, SERIAL_PORT, QUICK_PORT = 2376, 2377, 2378
BRIDGE = "vch0"
SETTINGS = "/run/appliance"
_STATE = "/data/vch"


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC of this machine."""

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class File:
    """`shared`: the daemon reads it; else it is root's alone."""

    content: str
    shared: bool = False
    public: bool = False


def files_of(settings: Settings, nics: Sequence[Nic], certificate: str, key: str, fingerprint: str) -> dict[str, File]:
    """By path. `nics` are those of `settings.interfaces`, in the same order; the certificate is the API's, PEM, with its key."""
    pairs = list(zip(settings.interfaces, nics, strict=True))
    files = {
        f"/run/systemd/network/10-{interface.roles[0]}.network": File(_network(settings, interface, nic), public=True)
        for interface, nic in pairs
    }
    files[f"{SETTINGS}/firewall.nft"] = File(_firewall(settings, pairs))
    if settings.password:
        files[f"{SETTINGS}/vsphere-password"] = File(settings.password, shared=True)
    if settings.ticket:
        files[f"{SETTINGS}/vsphere-ticket"] = File(settings.ticket, shared=True)
    for name, content in (
        ("vsphere-ca.pem", settings.vsphere_ca),
        ("ca.pem", settings.tls_ca),
        ("cert.pem", certificate),
        ("key.pem", key),
    ):
        if content:
            files[f"{SETTINGS}/{name}"] = File(content, shared=True)
    if settings.ssh:
        files[f"{SETTINGS}/ssh"] = files[f"{SETTINGS}/ssh-stays"] = File("")
    files[f"{SETTINGS}/authorized_keys"] = File(f"{settings.ssh_key}\n" if settings.ssh_key else "")
    bridge = next(nic.name for interface, nic in pairs if "bridge" in interface.roles)
    files[f"{SETTINGS}/vchd.json"] = File(_vchd(settings, bridge), shared=True)
    files["/run/issue.d/vch.issue"] = File(_console(settings, pairs, fingerprint), public=True)
    return files


def serves(settings: Settings) -> bool:
    """Whether there is anybody who may use the API by network."""
    return bool(settings.tls_ca) or not settings.verify


def problems_on_console(problems: Sequence[str]) -> str:
    """What the console shows instead, when the settings are of no use."""
    lines = [
        f"vch {__version__}",
        "",
        "This appliance does not start: its OVF properties have to be mended (power it off for that).",
        "",
    ]
    return "\n".join([*lines, *(f"  {_plain(problem)}" for problem in problems), "", ""])


def _plain(text: str) -> str:
    """agetty has backslashes for its own."""
    return "".join(char for char in text if char.isprintable()).replace("\\", "\\\\")


def _network(settings: Settings, interface: Interface, nic: Nic) -> str:
    lines = ["[Match]", f"MACAddress={nic.mac}", "Type=ether", ""]
    if "bridge" in interface.roles:
        # It becomes a port of vchd's bridge.
        return "\n".join([*lines, "[Link]", "Unmanaged=yes", ""])
    gateway_endpoint = "public" in interface.roles
    lines += ["[Network]", f"DHCP={'no' if interface.address else 'ipv4'}"]
    if interface.address:
        lines.append(f"Address={interface.address}")
    if interface.gateway:
        lines.append(f"Gateway={interface.gateway}")
    if gateway_endpoint:
        lines += [f"DNS={server}" for server in settings.dns]
        lines += [f"NTP={server}" for server in settings.ntp]
        if settings.search:
            lines.append(f"Domains={' '.join(settings.search)}")
    lines += ["", "[DHCPv4]", f"UseDNS={'no' if settings.dns else 'yes'}", f"UseNTP={'no' if settings.ntp else 'yes'}"]
    lines += [f"UseDomains={'no' if settings.search else 'yes'}", f"UseRoutes={'yes' if gateway_endpoint else 'no'}"]
    lines += [f"UseGateway={'yes' if gateway_endpoint else 'no'}"]
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
        # Containers: names, and their guests' own line.
        f'iifname "{BRIDGE}" meta l4proto {{ tcp, udp }} th dport 53 accept',
        f'iifname "{BRIDGE}" tcp dport {QUICK_PORT} accept',
    ]
    rules.append(f"iifname {names('client')} jump ssh")
    # What is published and not passed on by rules (IPv6) is a socket of vchd's. Nobody else listens here.
    rules.append(f"iifname {names('public')} tcp dport != {{ {own} }} accept")
    rules.append(f"iifname {names('public')} udp dport >= 1024 accept")
    body = "\n".join(f"        {rule}" for rule in rules)
    return (
        "table inet vch_appliance\ndelete table inet vch_appliance\ntable inet vch_appliance {\n"
        f"    chain ssh {{\n{'        tcp dport 22 accept' if settings.ssh else ''}\n    }}\n    chain input {{\n"
        f"        type filter hook input priority filter; policy drop;\n{body}\n    }}\n}}\n"
    )


def _vchd(settings: Settings, bridge: str) -> str:
    content = dict(settings.vchd)
    hosts = ["unix:///run/vch/docker.sock"]
    if serves(settings):
        hosts.append(f"tcp://0.0.0.0:{API_PORT}")
        content |= {"tls": True, "tlscert": f"{SETTINGS}/cert.pem", "tlskey": f"{SETTINGS}/key.pem"}
        if settings.verify:
            content |= {"tlsverify": True, "tlscacert": f"{SETTINGS}/ca.pem"}
    elif "tls-allow" in content:
        del content["tls-allow"]
    if settings.vsphere_ca:
        content["vsphere-ca"] = f"{SETTINGS}/vsphere-ca.pem"
    content |= {
        "hosts": hosts,
        "data-root": _STATE,
        "exec-root": "/run/vch",
        "bridge": BRIDGE,
        "bridge-interface": bridge,
        "vspc-listen": f"0.0.0.0:{SERIAL_PORT}",
        "quick-port": QUICK_PORT,
    }
    if settings.password:
        content["vsphere-password-file"] = f"{SETTINGS}/vsphere-password"
    if settings.ticket:
        content["vsphere-ticket-file"] = f"{SETTINGS}/vsphere-ticket"
    return json.dumps(content, indent=1) + "\n"


def _console(settings: Settings, pairs: Sequence[tuple[Interface, Nic]], fingerprint: str) -> str:
    r"""For agetty (issue(5)), which knows the addresses of the moment: \4{NIC}."""
    lines = [f"vch {__version__}, tenant {_plain(str(settings.vchd.get('tenant', '')))}", ""]
    client = next(nic.name for interface, nic in pairs if "client" in interface.roles)
    if serves(settings):
        lines.append(
            f"Docker API   DOCKER_HOST=tcp://\\4{{{client}}}:{API_PORT} {'DOCKER_TLS_VERIFY=1' if settings.verify else '(TLS)'}"
        )
        lines.append(f"Certificate  SHA-256 {fingerprint}")
        if not settings.verify:
            lines.append(
                "             CLIENTS ARE NOT VERIFIED: whoever reaches this address may do all (property tls-verify)"
            )
    else:
        lines.append("Docker API   not served by network: nobody could prove who he is (property tls-ca)")
    lines.append("")
    for interface, nic in pairs:
        if "bridge" not in interface.roles:
            lines.append(f"{nic.name:12} \\4{{{nic.name}}}  {', '.join(interface.roles)}")
    lines.append(f"SSH          {'on' if settings.ssh else 'off'}")
    return "\n".join([*lines, "", ""])
