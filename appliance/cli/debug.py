"""`vch debug`: opens SSH to an appliance for a limited time."""

import argparse
import getpass
import os
import secrets
import subprocess
import sys
from pathlib import Path

import paramiko
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.cli.reach import known_address, reported_address
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
    flag("name", help="Name or id of the appliance")
    flag(
        "--for",
        dest="seconds",
        type=int,
        default=3600,
        metavar="SECONDS",
        help="How long SSH stays open (default: 3600)",
    )
    flag(
        "--authorized-key",
        type=Path,
        metavar="FILE",
        help="Public key that may log in (default: vch makes a key pair in the folder of certificates)",
    )
    flag(
        "--rootpw",
        action="store_true",
        help="Allow login by password, too: from $VCH_ROOT_PASSWORD, else vch asks for it",
    )
    flag("--close", action="store_true", help="Close SSH now")
    flag("--cert-path", type=Path, metavar="FOLDER", help="Folder of certificates (default: ./NAME)")
    flag("--timeout", type=float, default=60, metavar="SECONDS", help="How long to wait for SSH (default: 60)")
    flag(
        "--run",
        dest="remote_command",
        metavar="COMMAND",
        help="Run this command on the appliance, print its output, and exit with its status",
    )


async def run(options: argparse.Namespace, report: Report) -> None:
    """Ended with REFUSED when the appliance is powered off; with TOO_LATE when the appliance does not open SSH in time."""
    if not LEAST_SECONDS <= options.seconds <= MOST_SECONDS:
        raise InvalidParameter(f"--for {options.seconds}: not between {LEAST_SECONDS} and {MOST_SECONDS} seconds")
    folder: Path = options.cert_path or Path(options.name)
    async with opened(options) as appliances:
        appliance = await appliances.named(options.name)
        if appliance.power != "poweredOn":
            raise Ended(REFUSED, f"{appliance.name} is {appliance.power}")
        if options.close:
            await appliances.set_extra(appliance.reference, {REQUEST: Access(secrets.token_hex(8), 0).encode()})
            report.result({"name": appliance.name, "open": False}, [f"SSH to {appliance.name} is closed"])
            return
        key, private_key = _key(options.authorized_key, folder)
        hashed = _hash(_password()) if options.rootpw else ""
        request = Access(secrets.token_hex(8), options.seconds, key, hashed).encode()
        await appliances.set_extra(appliance.reference, {REQUEST: request, HOST_KEY: ""})
        host_key = ""
        with trio.move_on_after(options.timeout):
            report.step("Waiting for the SSH host key of the appliance")
            host_key = await _host_key(appliances, appliance.reference)
            address = known_address(appliance.values) or await reported_address(appliances, appliance.reference)
        if not host_key:
            raise Ended(TOO_LATE, f"{appliance.name} does not react; are its VMware Tools running?")
    line = f"ssh {f'-i {private_key} ' if private_key is not None else ''}root@{address}"
    if private_key is None:
        report.result(
            {"name": appliance.name, "open": True, "ssh": line, "host_key": host_key},
            [line, f"Its host key is {host_key}"],
        )
        return
    status, output = await trio.to_thread.run_sync(
        _run_there, address, private_key, host_key, options.remote_command or "true", options.timeout
    )
    if options.remote_command:
        sys.stdout.write(output)
        raise SystemExit(status)
    report.result(
        {"name": appliance.name, "open": True, "ssh": line, "host_key": host_key}, [line, f"Its host key is {host_key}"]
    )


def _key(path: Path | None, folder: Path) -> tuple[str, Path | None]:
    """The public key, and the file of the private key if vch has made it."""
    if path is not None:
        try:
            text = path.read_text().strip()
            public_key(text)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise InvalidParameter(f"--authorized-key {path}: {error}") from error
        return text, None
    private_key = folder / "debug_key"
    if not private_key.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Ed25519PrivateKey.generate()
        write_private(private_key, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    try:
        pair = paramiko.Ed25519Key.from_private_key_file(str(private_key))
    except (OSError, paramiko.SSHException) as error:
        raise InvalidParameter(f"{private_key}: {error}") from error
    return f"{pair.get_name()} {pair.get_base64()} vch", private_key


def _password() -> str:
    if (found := os.environ.get("VCH_ROOT_PASSWORD")) is not None:
        return found
    if not sys.stdin.isatty():
        raise InvalidParameter("--rootpw: set $VCH_ROOT_PASSWORD, since vch cannot ask for it without a terminal")
    return getpass.getpass("Password of root while SSH is open: ")


def _hash(password: str) -> str:
    """The password as shadow(5) stores it."""
    try:
        return hash_of(password)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"openssl passwd: {error}") from error


async def _host_key(appliances: Appliances, reference: object) -> str:
    """The host key of the appliance, which it reports through vSphere, where an attacker on the network cannot replace it."""
    while True:
        found = (await appliances.extra(reference)).get(HOST_KEY, "")
        if found:
            return found
        await trio.sleep(_PAUSE)


def _run_there(address: str, private_key: Path, host_key: str, command: str, seconds: float) -> tuple[int, str]:
    """Run a command on the appliance. Its exit status, and its output and errors. Unavailable when SSH fails."""
    kind, _, encoded = host_key.partition(" ")
    client = paramiko.SSHClient()
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{address} {kind} {encoded}")
        if entry is None:
            raise Unavailable(f"{address}: invalid host key: {host_key!r}")
        client.get_host_keys().add(address, kind, entry.key)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            address,
            _PORT,
            "root",
            key_filename=str(private_key),
            timeout=seconds,
            banner_timeout=seconds,
            auth_timeout=seconds,
            allow_agent=False,
            look_for_keys=False,
        )
        _, out, errors = client.exec_command(command)
        output = out.read().decode("utf-8", "replace") + errors.read().decode("utf-8", "replace")
        return out.channel.recv_exit_status(), output
    except (OSError, paramiko.SSHException) as error:
        raise Unavailable(f"ssh root@{address}: {error}") from error
    finally:
        client.close()
