"""`vch create`: checks everything and reports all problems at once; then deploys the appliance."""

import argparse
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from appliance import __version__
from appliance.cli.options import add_create_arguments as add_arguments
from appliance.cli.options import handed_on
from appliance.cli.package import OvaFile
from appliance.cli.plan import (
    as_option,
    authority_of,
    check_options,
    client_address,
    networks_of,
    package_of,
    values_of,
    volume_stores,
)
from appliance.cli.reach import reported_address, wait_served
from appliance.cli.report import REFUSED, TOO_LATE, Ended, Report
from appliance.cli.target import opened, password_of
from appliance.config import parse_container_network
from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.appliances import Appliances, Deployed
from appliance.hypervisor.vsphere.deployment import Plan
from appliance.hypervisor.vsphere.inventory import Names, tenant_folder
from appliance.hypervisor.vsphere.preflight import Finding, Places, Preflight, PreflightRequest, privileges_for
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Session
from appliance.provision.certificates import Authority, write_private, write_public
from appliance.provision.files import API_PORT
from appliance.provision.properties import settings_of
from appliance.provision.reader import Malformed
from appliance.volume.nfs import is_nfs

__all__ = ["add_arguments", "run"]
_OVF_NETWORKS = {"public": "Public", "bridge": "Bridge"}


@dataclass(slots=True)
class _Identity:
    """The folder of certificates, vch's own CA if there is one, and the client certificate of the operator, PEM."""

    folder: Path
    authority: Authority | None = None
    certificate: str = ""
    key: str = ""


async def run(options: argparse.Namespace, report: Report) -> None:
    """Ended with REFUSED when there is a problem; nothing is deployed then."""
    options.tenant = options.tenant or options.name
    options.cert_path = options.cert_path or Path(options.name)
    async with opened(options) as appliances:
        report.step(f"Checking {appliances.session.describe()}")
        findings = check_options(options)
        package = package_of(options, findings)
        request = PreflightRequest(
            options.name,
            options.tenant,
            options.datacenter,
            options.compute_resource,
            options.image_store,
            _datastores(options),
            networks_of(options),
            _portgroups(options),
            options.ops_user or options.user,
            handed_on(options),
        )
        preflight = Preflight(appliances, request)
        await preflight.run()
        values = values_of(options, appliances.session.server, preflight.places)
        if options.ops_grant_perms:
            # `_make` gives the account the privileges that it lacks.
            preflight.problems = [finding for finding in preflight.problems if finding.setting != "--ops-user"]
        findings += preflight.problems
        if options.ops_extension and not appliances.session.is_vcenter:
            findings.append(
                Finding(
                    "--ops-extension",
                    "an ESXi host without a vCenter has no extensions",
                    "name an account by --ops-user",
                )
            )
        ops_password = await _ops_password(options, appliances.session.server, findings)
        try:
            # The password is checked by logging in, and the certificates are signed later.
            settings_of({**values, "vsphere-password": "-"})
        except Malformed as error:
            findings += [as_option(problem) for problem in error.problems]
        for finding in preflight.warnings:
            report.finding("warnings", finding.setting, finding.text, finding.remedy)
        if options.no_tlsverify:
            report.finding(
                "warnings",
                "--no-tlsverify",
                "EVERY CLIENT THAT REACHES THE API HAS FULL ACCESS to all containers and their data",
                "leave the option out",
            )
        for finding in findings:
            report.finding("problems", finding.setting, finding.text, finding.remedy)
        if findings:
            raise Ended(
                REFUSED,
                f"{options.name} was not deployed: {len(findings)} problem{'s' if len(findings) > 1 else ''}, see above",
            )
        assert package is not None
        if options.dry_run:
            report.result(
                {"name": options.name, "made": False},
                [f"{options.name} can be deployed; nothing was changed (--dry-run)"],
            )
            return
        await _make(
            appliances, options, report, package, preflight.places, {**values, "vsphere-password": ops_password}
        )


def _datastores(options: argparse.Namespace) -> dict[str, str]:
    """The datastores of the volume stores, by the names of the stores."""
    return {name: place for name, place in volume_stores(options) if not is_nfs(place)}


def _portgroups(options: argparse.Namespace) -> dict[str, str]:
    """The portgroups of the well-formed container networks, by the names of the networks."""
    found = {}
    for text in options.container_networks:
        with contextlib.suppress(InvalidParameter):
            network = parse_container_network(text)
            found[network.name] = network.place
    return found


async def _ops_password(options: argparse.Namespace, server: Server, findings: list[Finding]) -> str:
    """The password of the appliance's account; "", and a finding more, when the account cannot log in."""
    if options.ops_extension:
        return ""
    if not options.ops_user:
        return server.password
    try:
        password = password_of(options.ops_password_file, "VCH_OPS_PASSWORD", options.ops_user)
        async with Session.open(replace(server, user=options.ops_user, password=password)):
            return password
    except (InvalidParameter, HypervisorError) as error:
        findings.append(Finding("--ops-user", str(error), "create the account, and give its password"))
        return ""


def _identify(options: argparse.Namespace, report: Report, values: dict[str, str]) -> _Identity:
    """Sign the certificates that the options do not give, and put them into the values and the folder."""
    identity = _Identity(options.cert_path, authority_of(options, only_look=False))
    authority = identity.authority
    if authority is None:
        return identity
    report.step(f"{'Using' if authority.found else 'Made'} the CA in {options.cert_path}")
    if options.tls_cert is None:
        names = [name for name in (options.tls_cname, client_address(options), options.hostname) if name]
        values["tls-cert"], values["tls-key"] = authority.sign_server(list(dict.fromkeys(names)))
        write_public(options.cert_path / "server-cert.pem", values["tls-cert"].encode())
        write_private(options.cert_path / "server-key.pem", values["tls-key"].encode())
    if options.tls_ca is None and not options.no_tlsverify:
        values["tls-ca"] = authority.certificate
        identity.certificate, identity.key = authority.sign_client(f"operator of {options.name}")
        write_public(options.cert_path / "cert.pem", identity.certificate.encode())
        write_private(options.cert_path / "key.pem", identity.key.encode())
    return identity


async def _make(
    appliances: Appliances,
    options: argparse.Namespace,
    report: Report,
    package: OvaFile,
    places: Places,
    values: dict[str, str],
) -> None:
    identity = _identify(options, report, values)
    async with _undone_on_failure(appliances, report) as made:
        report.step(f"Creating the resource pool {options.name}")
        made.pool = await appliances.make_pool(places.pool, options.name, options.cpu, options.memory)
        made.folder = await tenant_folder(appliances.session, places.machines, Names(options.tenant))
        if options.ops_grant_perms:
            report.step(f"Giving {options.ops_user} the privileges that vchd needs")
            await appliances.grant(options.ops_user, places.datacenter, privileges_for(values, places))
        more = [places.backings[role] for role in ("client", "management") if role in places.backings]
        plan = Plan(
            options.name,
            options.tenant,
            __version__,
            made.pool,
            made.folder,
            places.datastore,
            {_OVF_NETWORKS[role]: places.networks[role] for role in _OVF_NETWORKS},
            more,
            values,
            options.endpoint_cpu,
            options.endpoint_memory,
        )
        report.step(f"Uploading {options.ova.name} to {places.datastore_name}")
        machine = made.machine = await appliances.deploy(plan, package, report.progress)
        if options.vm_group:
            await appliances.group(made.pool, options.vm_group).add(machine)
        if options.ops_extension:
            # As late as possible, since the ticket expires soon.
            deployed = await appliances.look(made.machine)
            assert deployed is not None
            await appliances.set_values(deployed, {"vsphere-ticket": await appliances.ticket()})
        report.step("Powering on")
        await appliances.power_on(made.machine)
    deployed = await appliances.look(made.machine)
    assert deployed is not None
    address = ""
    with trio.move_on_after(options.timeout) as scope:
        report.step("Waiting for the address of the appliance")
        address = client_address(options) or await reported_address(appliances, made.machine)
        report.step(f"Waiting for the API at {address}:{API_PORT}")
        await wait_served(address, values, options.cert_path)
    if scope.cancelled_caught:
        where = f" at {address}:{API_PORT}" if address else ""
        raise Ended(
            TOO_LATE,
            f"{options.name} was deployed, but its API does not answer{where} after {options.timeout:.0f} s: see its console; "
            f"`vch delete {options.name}` removes the appliance",
        )
    # The appliance has stored its secrets on its data disk: remove them from the inventory, where other accounts can read them.
    await appliances.set_values(deployed, dict.fromkeys(("vsphere-password", "vsphere-ticket", "tls-key"), ""))
    _tell(options, report, identity, address, deployed)


def _tell(options: argparse.Namespace, report: Report, identity: _Identity, address: str, deployed: Deployed) -> None:
    name = options.tls_cname if options.tls_cname and "*" not in options.tls_cname else address
    environment = {"DOCKER_HOST": f"tcp://{name}:{API_PORT}"}
    if not options.no_tlsverify:
        environment["DOCKER_TLS_VERIFY"] = "1"
    if identity.authority is not None:
        environment["DOCKER_CERT_PATH"] = str(options.cert_path.resolve())
    line = " ".join(f"{key}={value}" for key, value in environment.items())
    if identity.authority is not None:
        write_public(
            options.cert_path / f"{options.name}.env",
            "".join(f"{key}={value}\n" for key, value in environment.items()).encode(),
        )
    lines = [
        f"{options.name} is ready. Connect to it with:",
        "",
        line,
        f"docker {'--tls ' if options.no_tlsverify else ''}info",
    ]
    report.result(
        {
            "name": options.name,
            "id": deployed.reference._moId,
            "made": True,
            "address": address,
            "environment": environment,
        },
        lines,
    )


@dataclass(slots=True)
class _Made:
    pool: object | None = None
    folder: object | None = None
    machine: object | None = None


@asynccontextmanager
async def _undone_on_failure(appliances: Appliances, report: Report) -> AsyncIterator[_Made]:
    """Remove what the block has created, if the block ends with an error."""
    made = _Made()
    try:
        yield made
    except BaseException:
        report.step("Deployment failed; removing what was created")
        with trio.CancelScope(shield=True):
            for reference, undo in (
                (made.machine, appliances.end),
                (made.pool, appliances.remove_pool),
                (made.folder, appliances.remove_folder),
            ):
                if reference is not None:
                    try:
                        await undo(reference)
                    except HypervisorError as error:
                        report.finding("warnings", "left behind", str(error), "remove it in the vSphere client")
        raise
