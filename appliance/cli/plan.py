"""Checks the options of `vch create` as far as that needs no vSphere, and makes OVF properties of them."""

import argparse
import contextlib
import ipaddress
import re
from collections.abc import Iterator

from appliance.cli.options import file_options, handed_on, option_of
from appliance.cli.package import OvaFile
from appliance.config import bracketed, parse_volume_store
from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.preflight import Finding, Places
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.spec import check_names
from appliance.provision.certificates import Authority
from appliance.volume.nfs import NfsStore, is_nfs

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,30}")
_LEAST_MEMORY = 1024


def check_options(options: argparse.Namespace) -> list[Finding]:
    """What is wrong with the options themselves. A file that is not readable becomes None in the options."""
    return [
        *_check_names(options),
        *_check_volume_stores(options),
        *_check_appliance(options),
        *_check_certificates(options),
        *_check_account(options),
    ]


def _check_names(options: argparse.Namespace) -> Iterator[Finding]:
    for setting, text in (("--name", options.name), ("--tenant", options.tenant)):
        if not _NAME.fullmatch(text):
            yield Finding(
                setting, f"{text!r} is not a name of at most 31 letters, digits, - and _", "choose another name"
            )
    if options.vm_names:
        try:
            check_names(options.vm_names)
        except InvalidParameter as error:
            yield Finding(option_of("vm-names"), str(error).removeprefix(f"{option_of('vm-names')} "))


def _check_volume_stores(options: argparse.Namespace) -> Iterator[Finding]:
    """NFS URLs. The form NAME=PLACE is checked with the property."""
    for _, place in volume_stores(options):
        if is_nfs(place):
            try:
                NfsStore.parse(place, options.tenant)
            except InvalidParameter as error:
                yield Finding("--volume-store", str(error).removeprefix("--volume-store "))


def _check_appliance(options: argparse.Namespace) -> Iterator[Finding]:
    if not options.bridge_network:
        yield Finding("--bridge-network", "is required", "name a portgroup that only containers of this appliance use")
    for role in ("client", "management"):
        if getattr(options, f"{role}_address") and not getattr(options, f"{role}_network"):
            yield Finding(
                f"--{role}-address", "there is no NIC for this address", f"name the portgroup by --{role}-network"
            )
    if options.endpoint_cpu < 1:
        yield Finding("--endpoint-cpu", "at least 1 CPU is required")
    if options.endpoint_memory < _LEAST_MEMORY:
        yield Finding(
            "--endpoint-memory", f"{options.endpoint_memory} MiB are not enough", f"give at least {_LEAST_MEMORY}"
        )


def _check_certificates(options: argparse.Namespace) -> Iterator[Finding]:
    own = options.tls_cert is not None
    if own != (options.tls_key is not None):
        yield Finding("--tls-server-cert", "certificate and key belong together", "give --tls-server-key, too")
    if options.no_tlsverify and options.tls_ca is not None:
        yield Finding("--no-tlsverify", "without verification --tls-ca has no use", "leave out one of the two")
    if not own and not options.tls_cname and not client_address(options):
        yield Finding(
            "--tls-cname",
            "the API's certificate needs a name or an address, and DHCP assigns the address later",
            "give the name by which clients reach the appliance, or its address (--public-address or --client-address)",
        )
    for found in file_options():
        path = getattr(options, found.dest)
        if path is not None:
            try:
                path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                yield Finding(found.option.names[0], f"{path}: {error}")
                setattr(options, found.dest, None)
    try:
        authority_of(options, only_look=True)
    except InvalidParameter as error:
        yield Finding("--cert-path", str(error))


def _check_account(options: argparse.Namespace) -> Iterator[Finding]:
    if options.ops_extension and options.ops_user:
        yield Finding("--ops-extension", f"replaces the account {options.ops_user}", "leave out one of the two")
    if options.ops_grant_perms and not options.ops_user:
        yield Finding("--ops-grant-perms", "no account to give the privileges to", "name the account by --ops-user")


def volume_stores(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Name and place of the well-formed volume stores."""
    found = []
    for text in options.volume_stores:
        with contextlib.suppress(InvalidParameter):
            found.append(parse_volume_store(text))
    return found


def package_of(options: argparse.Namespace, findings: list[Finding]) -> OvaFile | None:
    """The OVA; None, and a finding more, when it is not usable."""
    try:
        return OvaFile(options.ova)
    except InvalidParameter as error:
        findings.append(Finding("--ova", str(error).removeprefix("--ova "), "name the file that `make ova` built"))
        return None


def networks_of(options: argparse.Namespace) -> dict[str, str]:
    """Portgroups by role. A role that shares the public network has no entry."""
    found = {"public": options.public_network, "bridge": options.bridge_network}
    if not options.bridge_network:
        del found["bridge"]
    for role in ("client", "management"):
        name = getattr(options, f"{role}_network")
        if name and name != options.public_network:
            found[role] = name
    return found


def client_address(options: argparse.Namespace) -> str:
    """The address that clients use; "" when DHCP assigns the address."""
    text = options.client_address if "client" in networks_of(options) else options.public_address
    try:
        return str(ipaddress.ip_interface(text or "").ip)
    except ValueError:
        return ""


def values_of(options: argparse.Namespace, server: Server, places: Places) -> dict[str, str]:
    """The values of the OVF properties, without secrets and without the certificates that vch's CA signs later."""
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
    # An empty value would hide the default of the property.
    return {key: value for key, value in values.items() if value}


def as_option(problem: str) -> Finding:
    """The problem of a property (KEY: TEXT) as a finding about the option that sets the property."""
    key, _, text = problem.partition(": ")
    return Finding(option_of(key) or f"--{key}", text)


def authority_of(options: argparse.Namespace, *, only_look: bool) -> Authority | None:
    """The CA of the folder of certificates, made when it is missing; None when the options give all certificates.

    With `only_look` an existing CA is checked, and no CA is made. InvalidParameter when the folder's CA is not usable.
    """
    if (options.tls_ca is not None or options.no_tlsverify) and options.tls_cert is not None:
        return None
    if only_look and not (options.cert_path / "ca.pem").exists():
        return None
    return Authority(options.cert_path, options.name)
