"""`vch-provision` runs once at each boot of an appliance, before the network is configured, and writes the files of `files.py`."""

import argparse
import grp
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.config.table import PROPERTIES
from appliance.errors import InvalidParameter
from appliance.provision import environment
from appliance.provision.certificates import alternatives, builder, pem_of
from appliance.provision.files import File, Nic, files_of, problems_on_console
from appliance.provision.properties import FOLDER, Settings, settings_of
from appliance.provision.reader import Malformed
from appliance.provision.shadow import hash_of, set_root_password

_NICS = Path("/sys/class/net")
_GROUP = "vch"
_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
_DAYS = 3650


def with_kept_secrets(values: Mapping[str, str], kept: Path) -> dict[str, str]:
    """The values, with the secrets of earlier boots, which `vch` has removed from the VM's properties since. New secrets go to `kept`."""
    try:
        secrets = json.loads(kept.read_bytes())
    except FileNotFoundError:
        secrets = {}
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{kept}: {error}") from error
    lasting = [found.key for found in PROPERTIES if found.secret and not found.once]
    secrets |= {key: values[key] for key in lasting if values.get(key)}
    if values.get("vsphere-login") == "extension":
        # An extension logs in with its certificate.
        secrets.pop("vsphere-password", None)
    _write(kept, File(json.dumps(secrets)), None)
    return {**values, **secrets}


def nics_of(settings: Settings, ordered: Sequence[str], present: Sequence[Nic]) -> list[Nic]:
    """The appliance's NICs in the order of the settings: by vCenter's list of MAC addresses (`ordered`), else in PCI order.

    Malformed when there are too few.
    """
    by_mac = {nic.mac: nic for nic in present}
    nics = [by_mac[mac] for mac in ordered if mac in by_mac] or list(present)
    wanted = len(settings.interfaces)
    if len(nics) < wanted:
        raise Malformed([f"interfaces: {wanted} networks are named, but there are {len(nics)} NICs"])
    return nics[:wanted]


def present_nics() -> list[Nic]:
    """The Ethernet NICs of the appliance, ordered by their place in /sys/devices."""
    found = []
    for place in _NICS.iterdir():
        device = place / "device"
        if device.exists():
            found.append((os.path.realpath(device), Nic(place.name, (place / "address").read_text().strip().lower())))
    return [nic for _, nic in sorted(found, key=lambda pair: pair[0])]


def own_certificate(settings: Settings, folder: Path) -> tuple[str, str]:
    """A self-signed certificate and its key, PEM. `folder` keeps both until the names or addresses of the appliance change."""
    names = sorted({settings.hostname or "vch", *(str(nic.address.ip) for nic in settings.interfaces if nic.address)})
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if key.exists() and (folder / "names").exists() and (folder / "names").read_text().split() == names:
        return certificate.read_text(), key.read_text()
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[-1])])
    made = (
        builder(subject, subject, private.public_key(), _DAYS)
        .add_extension(alternatives(names), critical=False)
        .sign(private, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(certificate, File(made.public_bytes(serialization.Encoding.PEM).decode()), None)
    _write(key, File(pem_of(private).decode()), None)
    _write(folder / "names", File(" ".join(names)), None)
    return certificate.read_text(), key.read_text()


def fingerprint(certificate: str) -> str:
    """The SHA-256 fingerprint of the first certificate, as browsers and openssl show it."""
    found = x509.load_pem_x509_certificates(certificate.encode())[0]
    return found.fingerprint(hashes.SHA256()).hex(":").upper()


def _write(path: Path, file: File, group: int | None) -> None:
    """Write the file atomically. Until the rename only root can read it; then root and `group`, or every user (see File)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(file.content)
        out.flush()
        os.fsync(fd)
        if file.shared and group is not None:
            os.fchown(fd, 0, group)
        os.fchmod(fd, 0o644 if file.public else 0o640 if file.shared else 0o600)
    partial.rename(path)


def provision(found: environment.Environment, root: Path, present: Sequence[Nic]) -> Settings:
    """Write all files below `root`. Malformed or InvalidParameter names the properties that are wrong."""
    values = with_kept_secrets(found.values, root / "data/appliance/secrets.json")
    settings = settings_of(values)
    nics = nics_of(settings, found.nics, present)
    certificate, key = settings.tls_cert, settings.tls_key
    if not certificate:
        certificate, key = own_certificate(settings, root / "data/appliance/tls")
    group = grp.getgrnam(_GROUP).gr_gid if root == Path("/") else None
    for path, file in files_of(settings, nics, certificate, key, fingerprint(certificate)).items():
        _write(root / path.lstrip("/"), file, group)
    return settings


def run() -> None:
    """The console script `vch-provision`."""
    parser = argparse.ArgumentParser(prog="vch-provision", description=__doc__)
    parser.parse_args()
    try:
        settings = provision(environment.found(), Path("/"), present_nics())
    except InvalidParameter as error:
        problems = error.problems if isinstance(error, Malformed) else [str(error)]
        _write(Path("/run/issue.d/vch.issue"), File(problems_on_console(problems), public=True), None)
        sys.exit("\n".join(problems))
    if settings.hostname:
        socket.sethostname(settings.hostname)
    if settings.root_password:
        set_root_password(hash_of(settings.root_password), Path(FOLDER, "shadow"))
    _write(Path(FOLDER, "roots.pem"), File(_ROOTS.read_text() + settings.registry_ca, public=True), None)
