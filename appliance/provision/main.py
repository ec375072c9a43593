"""`vch-provision`: run once at each boot of an appliance, before its network is set up."""

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

from appliance.errors import InvalidParameter
from appliance.provision import environment
from appliance.provision.certificates import alternatives, builder, pem_of
from appliance.provision.files import SETTINGS, File, Nic, files_of, problems_on_console
from appliance.provision.properties import PROPERTIES, Malformed, Settings, settings_of
from appliance.provision.shadow import hash_of, set_root_password

_CARDS = Path("/sys/class/net")
_GROUP = "vch"
_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
_DAYS = 3650


def with_kept_secrets(values: Mapping[str, str], kept: Path) -> dict[str, str]:
    """The values, with those secrets that were taken out of the properties since an earlier boot; new ones are kept in that file."""
    try:
        secrets = json.loads(kept.read_bytes())
    except FileNotFoundError:
        secrets = {}
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{kept}: {error}") from error
    kinds = [one for one in PROPERTIES if one.secret and not one.once]
    secrets |= {one.key: values[one.key] for one in kinds if values.get(one.key)}
    if values.get("vsphere-login") == "extension":
        # It needs none any more.
        secrets.pop("vsphere-password", None)
    _write(kept, File(json.dumps(secrets)), None)
    return {**values, **secrets}


def nics_of(settings: Settings, ordered: Sequence[str], present: Sequence[Nic]) -> list[Nic]:
    """This machine's NICs in the order of the settings: as vCenter tells (MAC addresses), else as they are plugged. Malformed."""
    by_mac = {nic.mac: nic for nic in present}
    nics = [by_mac[mac] for mac in ordered if mac in by_mac] or list(present)
    wanted = len(settings.interfaces)
    if len(nics) < wanted:
        raise Malformed([f"interfaces: {wanted} are named, and there are {len(nics)} NICs"])
    return nics[:wanted]


def present_cards() -> list[Nic]:
    """Ethernet NICs by where they are plugged."""
    found = []
    for place in _CARDS.iterdir():
        device = place / "device"
        if device.exists():
            found.append((os.path.realpath(device), Nic(place.name, (place / "address").read_text().strip().lower())))
    return [nic for _, nic in sorted(found, key=lambda pair: pair[0])]


def own_certificate(settings: Settings, folder: Path) -> tuple[str, str]:
    """A certificate that the appliance signs for itself, and its key, PEM: made once for a set of names."""
    names = sorted({settings.hostname or "vch", *(str(one.address.ip) for one in settings.interfaces if one.address)})
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
    """SHA-256 of the first certificate, as browsers and openssl show it."""
    found = x509.load_pem_x509_certificates(certificate.encode())[0]
    return found.fingerprint(hashes.SHA256()).hex(":").upper()


def _write(path: Path, file: File, group: int | None) -> None:
    """Whole or not at all; never readable for more than a moment by whom it is not for."""
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
    """Write all files below `root`. Malformed or InvalidParameter says what is wrong with the properties."""
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
        settings = provision(environment.found(), Path("/"), present_cards())
    except InvalidParameter as error:
        problems = error.problems if isinstance(error, Malformed) else [str(error)]
        _write(Path("/run/issue.d/vch.issue"), File(problems_on_console(problems), public=True), None)
        sys.exit("\n".join(problems))
    if settings.hostname:
        socket.sethostname(settings.hostname)
    if settings.root_password:
        set_root_password(hash_of(settings.root_password), Path(SETTINGS, "shadow"))
    _write(Path("/run/appliance/roots.pem"), File(_ROOTS.read_text() + settings.registry_ca, public=True), None)
