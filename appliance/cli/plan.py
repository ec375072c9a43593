"""The options of `vch create`: what they are, what can be wrong with them by themselves, which properties they become."""

import argparse
import ipaddress
import re
from pathlib import Path

from appliance.cli.package import OvaFile
from appliance.config import bracketed, parse_size, parse_volume_store
from appliance.diag.shipping import parse_server
from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.preflight import Finding, Places
from appliance.hypervisor.vsphere.session import Server
from appliance.hypervisor.vsphere.spec import check_names
from appliance.provision.certificates import Authority
from appliance.volume.nfs import NfsStore, is_nfs

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,30}")
# Properties that an option is handed on as.
_HANDED_ON = {
    "dns": "dns", "search_domain": "search", "ntp": "ntp", "bip": "bip", "labels": "labels", "insecure_registry": "insecure-registries",
    "registry_mirror": "registry-mirrors", "allow_registry": "allow-registries", "http_proxy": "http-proxy",
    "https_proxy": "https-proxy", "no_proxy": "no-proxy", "tls_allow": "tls-allow", "container_memory": "vm-memory",
    "public_address": "public-address", "public_gateway": "public-gateway", "client_address": "client-address",
    "client_routes": "client-routes", "management_address": "management-address", "management_routes": "management-routes",
    "hostname": "hostname", "log_level": "log-level", "vspc_allow": "vspc-allow", "vm_firmware": "vm-firmware", "ssh_key": "ssh-key",
    "volume_store": "volume-stores", "container_network": "container-networks", "tunnel_port": "vsphere-tunnel-port",
    "vm_names": "vm-names", "syslog_address": "syslog-address", "container_pool": "vm-pool",
    "vm_group": "vm-group", "storage_quota": "storage-quota",
}  # fmt: skip
# Those that are more than handed on.
_SAID = {
    "tenant": "tenant", "thumbprint": "thumbprint", "datacenter": "datacenter", "compute_resource": "compute-resource",
    "image_store": "image-store", "bridge_network": "bridge-network", "ops_user": "vsphere-user",
}  # fmt: skip
# Options that are said once for each part of the property, and what is between them there.
_REPEATED = {"volume-stores": ",", "container-networks": ";"}
_FILES = {
    "registry_ca": "registry-ca",
    "tls_ca": "tls-ca",
    "tls_server_cert": "tls-cert",
    "tls_server_key": "tls-key",
    "target_ca": "vsphere-ca",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `vch create`."""
    flag = parser.add_argument_group("what is made, and where").add_argument
    flag("-n", "--name", default="vch", help="of the appliance, its resource pool and folder (vch)")
    flag("--tenant", help="in whose name containers' machines are made; else the name")
    flag("--ova", type=Path, required=True, help="the appliance, as `make ova` makes it")
    flag("--datacenter", default="", help="where there are several")
    flag("-r", "--compute-resource", default="", help="a cluster or host, or CLUSTER/POOL, where there are several")
    flag(
        "-i",
        "--image-store",
        default="",
        help="the datastore of the appliance, images and machines, where there are several",
    )
    flag("--endpoint-cpu", type=int, default=2, help="processors of the appliance (2)")
    flag("--endpoint-memory", type=int, default=2048, help="MiB of the appliance (2048)")
    flag("--cpu", type=int, default=-1, metavar="MHZ", help="limit of the resource pool")
    flag("--memory", type=int, default=-1, metavar="MIB", help="limit of the resource pool")
    flag("-b", "--bridge-network", default="", help="a portgroup for containers, of this appliance alone")
    flag(
        "--public-network",
        default="",
        help="published ports, the API, vSphere and the way out, as far as the next two are not said",
    )
    flag("--client-network", default="", help="the API")
    flag("--management-network", default="", help="vSphere")
    add_setting_arguments(parser)
    flag = parser.add_argument_group("how").add_argument
    flag("--ops-grant-perms", action="store_true", help="give --ops-user a role with what is needed, and nothing else")
    flag("--dry-run", action="store_true", help="look at everything, make nothing")
    flag("--timeout", type=float, default=600, metavar="SECONDS", help="for the appliance to come up (600)")


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what an appliance is told, at first and later."""
    flag = parser.add_argument_group("containers").add_argument
    flag(
        "--volume-store",
        action="append",
        default=[],
        metavar="NAME=DATASTORE|NAME=nfs://SERVER/PATH",
        help="where volumes may be put, too",
    )
    flag("--container-memory", metavar="MIB", help="of a container that says none (256)")
    flag(
        "--container-pool",
        metavar="COUNT",
        help="machines that wait for containers: InstantClones, of a vCenter from 6.7 on (0)",
    )
    flag(
        "--affinity-vm-group",
        "--vm-group",
        dest="vm_group",
        metavar="NAME",
        help="a group of the cluster's that all machines are put in, for DRS rules; made if it is not there",
    )
    flag("--storage-quota", metavar="SIZE", help="what images and containers may take together, as 100g")
    flag("--vm-firmware", help="of containers' machines: efi or bios")
    flag(
        "--container-name-convention",
        "--vm-names",
        dest="vm_names",
        metavar="CONVENTION",
        help="what containers' machines are called: text with {name}, {id} and {tenant} ({name}-{id})",
    )

    flag = parser.add_argument_group("networks").add_argument
    flag(
        "--bip",
        "--bridge-network-range",
        dest="bip",
        help="the gateway and prefix of the default network, as 172.17.0.1/16",
    )
    flag(
        "-cn",
        "--container-network",
        action="append",
        default=[],
        metavar="name=NAME,portgroup=PORTGROUP[,subnet=CIDR,gateway=IP,range=IP-IP,dns=IP,firewall=LEVEL]",
        help="a portgroup that containers may be on: --network NAME. By DHCP without a subnet; closed, outbound, peers, published or open",
    )
    for role in ("public", "client", "management"):
        flag(
            f"--{role}-address",
            f"--{role}-network-ip",
            dest=f"{role}_address",
            metavar="ADDRESS/PREFIX",
            help="else by DHCP",
        )
    flag(
        "--public-gateway", "--public-network-gateway", dest="public_gateway", help="the default route, with an address"
    )
    flag("--client-routes", metavar="SUBNET=GATEWAY,...")
    flag("--management-routes", metavar="SUBNET=GATEWAY,...")
    flag("--dns", "--dns-server", dest="dns", action="append")
    flag("--search-domain", action="append")
    flag("--ntp", action="append")
    flag("--hostname")
    flag(
        "--vspc-allow",
        action="append",
        metavar="CIDR",
        help="from where hosts connect serial ports; else from everywhere",
    )

    flag = parser.add_argument_group("who may use it").add_argument
    flag("--tls-cname", default="", help="what clients call the appliance: of its certificate; else its address")
    flag("--cert-path", type=Path, help="the folder of certificates, ./NAME; a CA that is there is used")
    flag("--tls-ca", type=Path, help="PEM: the CAs of clients, rather than one of our own")
    flag("--tls-server-cert", type=Path, help="PEM: the API's certificate, rather than one of our CA's")
    flag("--tls-server-key", type=Path, help="PEM: its key")
    flag(
        "--tls-allow",
        action="append",
        metavar="RULE",
        help="full:CN=NAME, full:OU=UNIT, read:CN=NAME, read:OU=UNIT; else all may all",
    )
    flag(
        "--no-tlsverify",
        action="store_true",
        help="DANGEROUS: whoever reaches the API has the rights of root on all containers",
    )
    flag("--ssh-key", help="a public key for root, for when SSH is turned on (vch debug)")

    flag = parser.add_argument_group("what the appliance does in vSphere's name").add_argument
    flag("--ops-user", default="", help="its account; else --user's")
    flag("--ops-password-file", type=Path, help="else $VCH_OPS_PASSWORD")
    flag(
        "--ops-extension",
        action="store_true",
        help="no account: an extension of the vCenter, by a certificate that the appliance makes itself",
    )
    flag(
        "--tunnel-port", metavar="PORT", help="of the vCenter, where extensions log in (80); 0: where all else is asked"
    )

    flag = parser.add_argument_group("registries").add_argument
    flag("--insecure-registry", action="append")
    flag("--registry-mirror", action="append")
    flag(
        "--allow-registry",
        "--whitelist-registry",
        dest="allow_registry",
        action="append",
        help="use no other registry than those named",
    )
    flag("--registry-ca", type=Path, help="PEM")
    flag("--http-proxy")
    flag("--https-proxy")
    flag("--no-proxy")

    flag = parser.add_argument_group("what it says").add_argument
    flag("--label", dest="labels", action="append", metavar="NAME=VALUE", help="in docker info")
    flag("--log-level")
    flag(
        "--syslog-address",
        metavar="udp|tcp|tcp+tls://HOST[:PORT]",
        help="where the appliance's vchd sends its own log, too",
    )


def look_at_options(options: argparse.Namespace) -> list[Finding]:
    findings = []
    for setting, text in (("--name", options.name), ("--tenant", options.tenant)):
        if not _NAME.fullmatch(text):
            findings.append(
                Finding(setting, f"{text!r} has other than letters, digits, - and _, or more than 31", "choose another")
            )
    for setting, given, check in (
        ("--syslog-address", options.syslog_address, parse_server),
        ("--storage-quota", options.storage_quota, parse_size),
        ("--container-name-convention", options.vm_names, check_names),
    ):
        if given:
            try:
                check(given)
            except InvalidParameter as error:
                findings.append(Finding(setting, str(error).removeprefix(f"{setting} ")))
    for text in options.volume_store:
        try:
            _, place = parse_volume_store(text)
            if is_nfs(place):
                NfsStore.parse(place, options.tenant)
        except InvalidParameter as error:
            findings.append(Finding("--volume-store", str(error).removeprefix("--volume-store ")))
    if not options.bridge_network:
        findings.append(Finding("--bridge-network", "has to be said", "name a portgroup that is for containers alone"))
    for role in ("client", "management"):
        if getattr(options, f"{role}_address") and not getattr(options, f"{role}_network"):
            findings.append(
                Finding(f"--{role}-address", "there is no NIC for it", f"name the portgroup by --{role}-network")
            )
    if options.endpoint_cpu < 1:
        findings.append(Finding("--endpoint-cpu", "one at least is needed"))
    if options.endpoint_memory < 1024:
        findings.append(Finding("--endpoint-memory", f"{options.endpoint_memory} MiB are too few", "1024 at least"))
    own = options.tls_server_cert is not None
    if own != (options.tls_server_key is not None):
        findings.append(
            Finding("--tls-server-cert", "certificate and key belong together", "give --tls-server-key, too")
        )
    if options.no_tlsverify and options.tls_ca is not None:
        findings.append(Finding("--no-tlsverify", "it makes nothing of --tls-ca", "leave out one of the two"))
    if not own and not options.tls_cname and not client_address(options):
        findings.append(
            Finding(
                "--tls-cname",
                "with DHCP nobody knows what the certificate has to say",
                "say by which name clients reach the appliance, or give its address (--public-address or --client-address)",
            )
        )
    for name in _FILES:
        path = getattr(options, name)
        if path is not None:
            try:
                path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                findings.append(Finding(f"--{name.replace('_', '-')}", f"{path}: {error}"))
                setattr(options, name, None)
    if options.ops_extension and options.ops_user:
        findings.append(Finding("--ops-extension", f"it is instead of {options.ops_user}", "leave out one of the two"))
    if options.ops_grant_perms and not options.ops_user:
        findings.append(Finding("--ops-grant-perms", "to whom?", "name the account by --ops-user"))
    try:
        authority_of(options, only_look=True)
    except InvalidParameter as error:
        findings.append(Finding("--cert-path", str(error)))
    return findings


def package_of(options: argparse.Namespace, findings: list[Finding]) -> OvaFile | None:
    try:
        return OvaFile(options.ova)
    except InvalidParameter as error:
        findings.append(Finding("--ova", str(error).removeprefix("--ova "), "name the file that `make ova` made"))
        return None


def networks_of(options: argparse.Namespace) -> dict[str, str]:
    """Portgroups by role; a role that is on the public network has none of its own."""
    found = {"public": options.public_network, "bridge": options.bridge_network}
    if not options.bridge_network:
        del found["bridge"]
    for role in ("client", "management"):
        name = getattr(options, f"{role}_network")
        if name and name != options.public_network:
            found[role] = name
    return found


def client_address(options: argparse.Namespace) -> str:
    """The address that clients use, if it is known."""
    text = options.client_address if "client" in networks_of(options) else options.public_address
    try:
        return str(ipaddress.ip_interface(text or "").ip)
    except ValueError:
        return ""


def values_of(options: argparse.Namespace, server: Server, places: Places) -> dict[str, str]:
    """The properties, as far as no secret and no certificate of ours is in them."""
    networks = networks_of(options)
    values = {
        "vsphere": f"{bracketed(server.host)}:{server.port}",
        "vsphere-user": "" if options.ops_extension else options.ops_user or server.user,
        "vsphere-login": "extension" if options.ops_extension else "",
        "thumbprint": server.thumbprint,
        "tenant": options.tenant,
        "datacenter": places.datacenter_name,
        "compute-resource": "/".join(filter(None, (options.compute_resource or places.compute_name, options.name))),
        "image-store": places.datastore_name,
        "bridge-network": places.network_names.get("bridge", options.bridge_network),
        "interfaces": ",".join(("public", "bridge", *(role for role in ("client", "management") if role in networks))),
        "tls-verify": "false" if options.no_tlsverify else "true",
    }
    values |= handed_on(options)
    return {key: value for key, value in values.items() if value}


def handed_on(options: argparse.Namespace) -> dict[str, str]:
    """The properties that options say as they are."""
    values = {}
    for option, key in _HANDED_ON.items():
        given = getattr(options, option)
        if given:
            values[key] = _REPEATED.get(key, ",").join(given) if isinstance(given, list) else str(given)
    for option, key in _FILES.items():
        path = getattr(options, option)
        if path is not None:
            values[key] = path.read_text()
    return values


def option_of(key: str) -> str:
    """The option that a property came from; "" for none."""
    names = {property_key: option for option, property_key in {**_HANDED_ON, **_SAID, **_FILES}.items()}
    return f"--{names[key].replace('_', '-')}" if key in names else ""


def words_of(key: str, value: str) -> list[str]:
    """The options of a property's value; none for one that has no option."""
    option, between = option_of(key), _REPEATED.get(key)
    if not option:
        return []
    return [word for part in (value.split(between) if between else [value]) for word in (option, part)]


def as_option(problem: str) -> Finding:
    """What is wrong with a property, in the words of the option that it came from."""
    key, _, text = problem.partition(": ")
    return Finding(option_of(key) or f"--{key}", text)


def authority_of(options: argparse.Namespace, *, only_look: bool) -> Authority | None:
    """The CA of clients and of the API's certificate, unless others were given for both."""
    if (options.tls_ca is not None or options.no_tlsverify) and options.tls_server_cert is not None:
        return None
    if only_look and not (options.cert_path / "ca.pem").exists():
        return None
    return Authority(options.cert_path, options.name)
