"""`vch debug`: SSH to an appliance, for a time."""

import argparse
import getpass
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import paramiko
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.cli.reach import known_address, told_address
from appliance.cli.report import REFUSED, TOO_LATE, Ended, Report
from appliance.cli.target import opened
from appliance.errors import InvalidParameter, Unavailable
from appliance.hypervisor.vsphere.appliances import Appliances
from appliance.provision.access import HOST_KEY, LEAST_SECONDS, MOST_SECONDS, REQUEST, Access
from appliance.provision.certificates import write_private
from appliance.provision.pem import public_key
from appliance.provision.shadow import hash_of

_PAUSE = 2.0
_PORT = 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", help="of the appliance, or its id")
    flag("--for", dest="seconds", type=int, default=3600, metavar="SECONDS", help="how long (3600)")
    flag(
        "--authorized-key",
        type=Path,
        help="a public key that may log in; else one is made for you, beside the certificates",
    )
    flag("--rootpw", action="store_true", help="a password may log in, too: it is asked for, or $VCH_ROOT_PASSWORD")
    flag("--close", action="store_true", help="end it now")
    flag("--cert-path", type=Path, help="the folder of certificates, ./NAME")
    flag("--timeout", type=float, default=60, metavar="SECONDS", help="for SSH to be there (60)")
    flag("--run", dest="there", metavar="COMMAND", help="run this there, print what it says; its status is ours")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Ended, with REFUSED, for an appliance that is off; with TOO_LATE when SSH does not come."""
    if not LEAST_SECONDS <= options.seconds <= MOST_SECONDS:
        raise InvalidParameter(f"--for {options.seconds}: between {LEAST_SECONDS} and {MOST_SECONDS}")
    folder: Path = options.cert_path or Path(options.name)
    async with opened(options) as appliances:
        one = await appliances.named(options.name)
        if one.power != "poweredOn":
            raise Ended(REFUSED, f"{one.name} is {one.power}")
        if options.close:
            await appliances.set_extra(one.reference, {REQUEST: Access(secrets.token_hex(8), 0).encode()})
            report.result({"name": one.name, "open": False}, [f"SSH to {one.name} ends"])
            return
        key, own = _key(options.authorized_key, folder)
        hashed = _hash(_password()) if options.rootpw else ""
        request = Access(secrets.token_hex(8), options.seconds, key, hashed).encode()
        await appliances.set_extra(one.reference, {REQUEST: request, HOST_KEY: ""})
        found = ""
        with trio.move_on_after(options.timeout):
            report.step("Waiting for the appliance to say by which key it is known")
            found = await _host_key(appliances, one.reference)
            address = known_address(one.values) or await told_address(appliances, one.reference)
        if not found:
            raise Ended(TOO_LATE, f"{one.name} does not take it up; are VMware's tools running in it?")
    line = f"ssh {f'-i {own} ' if own is not None else ''}root@{address}"
    if own is None:
        report.result(
            {"name": one.name, "open": True, "ssh": line, "host_key": found}, [line, f"It is known by {found}"]
        )
        return
    status, said = await trio.to_thread.run_sync(
        _converse, address, own, found, options.there or "true", options.timeout
    )
    if options.there:
        sys.stdout.write(said)
        raise SystemExit(status)
    report.result({"name": one.name, "open": True, "ssh": line, "host_key": found}, [line, f"It is known by {found}"])


def _key(path: Path | None, folder: Path) -> tuple[str, Path | None]:
    """The public key, and where the private one is if it is ours."""
    if path is not None:
        try:
            text = path.read_text().strip()
            public_key(text)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise InvalidParameter(f"--authorized-key {path}: {error}") from error
        return text, None
    own = folder / "debug_key"
    if not own.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Ed25519PrivateKey.generate()
        write_private(own, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    try:
        pair = paramiko.Ed25519Key.from_private_key_file(str(own))
    except (OSError, paramiko.SSHException) as error:
        raise InvalidParameter(f"{own}: {error}") from error
    return f"{pair.get_name()} {pair.get_base64()} vch", own


def _password() -> str:
    if (found := os.environ.get("VCH_ROOT_PASSWORD")) is not None:
        return found
    if not sys.stdin.isatty():
        raise InvalidParameter("--rootpw: there is nobody to be asked, and no $VCH_ROOT_PASSWORD")
    return getpass.getpass("Password of root, for this time: ")


def _hash(password: str) -> str:
    """For shadow(5)."""
    try:
        return hash_of(password)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"openssl passwd: {error}") from error


async def _host_key(appliances: Appliances, reference: Any) -> str:
    """What the appliance tells through vSphere, so that nobody between us can say something else."""
    while True:
        found = (await appliances.extra(reference)).get(HOST_KEY, "")
        if found:
            return found
        await trio.sleep(_PAUSE)


def _converse(address: str, own: Path, host_key: str, command: str, seconds: float) -> tuple[int, str]:
    """Run a command there; its status and what it says. Unavailable when it cannot be."""
    kind, _, encoded = host_key.partition(" ")
    client = paramiko.SSHClient()
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{address} {kind} {encoded}")
        if entry is None:
            raise Unavailable(f"{address}: it says that it is known by {host_key!r}, which is no key")
        client.get_host_keys().add(address, kind, entry.key)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            address,
            _PORT,
            "root",
            key_filename=str(own),
            timeout=seconds,
            banner_timeout=seconds,
            auth_timeout=seconds,
            allow_agent=False,
            look_for_keys=False,
        )
        _, out, errors = client.exec_command(command)
        said = out.read().decode("utf-8", "replace") + errors.read().decode("utf-8", "replace")
        return out.channel.recv_exit_status(), said
    except (OSError, paramiko.SSHException) as error:
        raise Unavailable(f"ssh root@{address}: {error}") from error
    finally:
        client.close()
