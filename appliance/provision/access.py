"""`vch-access` opens SSH on the appliance for a limited time, at the request of `vch debug`.

The request is a guestinfo value of the VM: only accounts that may reconfigure the VM can write it.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InvalidParameter
from appliance.provision.pem import public_key
from appliance.provision.properties import FOLDER
from appliance.provision.shadow import set_root_password

# The guestinfo keys of the request, and of the SSH host key that the appliance reports.
REQUEST, HOST_KEY = "guestinfo.vch.debug", "guestinfo.vch.hostkey"
LEAST_SECONDS, MOST_SECONDS = 60, 24 * 3600
_FOLDER = Path(FOLDER)
_LAST = Path("/data/appliance/debug-id")
_KEY = Path("/data/appliance/ssh_host_ed25519_key.pub")
_HASH = re.compile(r"\$6\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}")
_TIMER = "vch-access-close"


@dataclass(frozen=True, slots=True)
class Access:
    """A request to open SSH for `seconds`, with a public key, a password (its SHA-512 crypt(5) hash), or both. 0 seconds close SSH."""

    id: str
    seconds: int
    key: str = ""
    password_hash: str = ""

    def encode(self) -> str:
        """The request as `parse` reads it."""
        return json.dumps(
            {"id": self.id, "seconds": self.seconds, "key": self.key, "password_hash": self.password_hash}
        )


def parse(text: str) -> Access:
    """A request from its JSON. InvalidParameter when it is malformed."""
    try:
        found = json.loads(text)
        access = Access(str(found["id"]), int(found["seconds"]), str(found["key"]), str(found["password_hash"]))
        public_key(access.key)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidParameter(f"{REQUEST}: {error}") from error
    if access.seconds and not LEAST_SECONDS <= access.seconds <= MOST_SECONDS:
        raise InvalidParameter(
            f"{REQUEST}: {access.seconds} seconds are not between {LEAST_SECONDS} and {MOST_SECONDS}"
        )
    if access.password_hash and not _HASH.fullmatch(access.password_hash):
        raise InvalidParameter(f"{REQUEST}: password_hash is not a SHA-512 crypt hash")
    return access


def _run(*command: str, check: bool = True) -> None:
    """Run a command. Without `check` a failure is expected and ignored."""
    subprocess.run(command, check=check, stderr=None if check else subprocess.DEVNULL)


def _write(path: Path, content: str) -> None:
    path.touch(mode=0o600)
    path.write_text(content)


def _open(access: Access) -> None:
    # A request replaces the one before, with its key and its password.
    _close()
    _write(_FOLDER / "debug_keys", f"{access.key}\n" if access.key else "")
    if access.password_hash:
        set_root_password(access.password_hash, _FOLDER / "debug-shadow")
    _run("nft", "add", "rule", "inet", "vch_appliance", "ssh", "tcp", "dport", "22", "accept")
    (_FOLDER / "ssh").touch(mode=0o600)
    _run("systemctl", "start", "vch-hostkeys.service", "ssh.service")
    _run(
        "systemd-run",
        "-q",
        f"--unit={_TIMER}",
        f"--on-active={access.seconds}s",
        f"{sys.prefix}/bin/vch-access",
        "--close",
    )
    with contextlib.suppress(OSError):
        _run("vmtoolsd", "--cmd", f"info-set {HOST_KEY} {' '.join(_KEY.read_text().split()[:2])}", check=False)


def _close() -> None:
    """Restore what the OVF properties say about SSH, and end open sessions."""
    _run("systemctl", "-q", "stop", f"{_TIMER}.timer", check=False)
    if not (_FOLDER / "debug_keys").exists():
        return
    if (_FOLDER / "debug-shadow").exists():
        _run("umount", "/etc/shadow", check=False)
        (_FOLDER / "debug-shadow").unlink()
    (_FOLDER / "debug_keys").unlink()
    # The property `ssh` keeps SSH open.
    if not (_FOLDER / "ssh-stays").exists():
        _run("nft", "flush", "chain", "inet", "vch_appliance", "ssh")
        (_FOLDER / "ssh").unlink(missing_ok=True)
        _run("systemctl", "stop", "ssh.service", check=False)
        _run("pkill", "-KILL", "-x", "sshd", check=False)


def run() -> None:
    """The console script `vch-access`: reads a request from standard input, or closes SSH with `--close`."""
    parser = argparse.ArgumentParser(prog="vch-access", description=__doc__)
    parser.add_argument("--close", action="store_true", help="close SSH now")
    if parser.parse_args().close:
        _close()
        return
    text = sys.stdin.read(1 << 16).strip()
    if not text:
        _close()
        return
    try:
        access = parse(text)
    except InvalidParameter as error:
        sys.exit(f"vch-access: {error}")
    if _LAST.exists() and _LAST.read_text() == access.id:
        return
    _write(_LAST, access.id)
    if access.seconds:
        _open(access)
    else:
        _close()
