"""The files that the builder gets for one life: buildkitd.toml, the start script, the keys of the door, certificates of registries."""

import io
import ipaddress
import logging
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.buildkit.config import (
    FOLDER,
    READY,
    BuildkitSettings,
    DoorAccess,
    RegistrySettings,
    buildkitd_toml,
    start_script,
)
from appliance.buildkit.door_names import DOOR_HOST
from appliance.engine.builds.credentials import AUTHORITY, CERTIFICATE, KEY
from appliance.errors import InvalidParameter
from appliance.registry import Proxies

log = logging.getLogger(__name__)

_CERTIFICATES = "certs"
_CERTIFICATE_SUFFIXES = (".crt", ".cert", ".key")
# The tmpfs in the builder has 1 MiB for all files.
_MOST_CERTIFICATE_BYTES = 512 << 10
_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """The daemon's settings for registries, which hold for builds, too. `certificates` is a folder such as /etc/docker/certs.d."""

    mirrors: Sequence[str] = ()
    insecure: Sequence[str] = ()
    certificates: Path = Path("/etc/docker/certs.d")
    proxies: Proxies = field(default=Proxies(), repr=False)


def builder_archive(
    door: str, keys: Mapping[str, bytes], rules: RegistryRules, parallelism: int, port: int = 0
) -> bytes:
    """A tar of the files for a builder whose door is "HOST:PORT"; `keys` are those of BuilderKeys.make. Reads the certificates: blocks.

    `port` is that of BuildkitSettings.
    InvalidParameter when the certificates of registries are too large, or cannot be read.
    """
    try:
        certificates = _certificates(rules.certificates)
    except OSError as error:
        raise InvalidParameter(f"the certificates of registries cannot be read: {error}") from error
    access = DoorAccess(door, *(f"{FOLDER}/{name}" for name in (AUTHORITY, CERTIFICATE, KEY)))
    registries = _registries(rules, sorted(certificates))
    settings = BuildkitSettings(access, parallelism, registries, _environment(rules.proxies), port)
    files = {**keys, "buildkitd.toml": buildkitd_toml(settings).encode(), "start": start_script(settings).encode()}
    for host, found in certificates.items():
        files |= {f"{_CERTIFICATES}/{host}/{name}": content for name, content in found.items()}
    # The last one: the container starts buildkitd when this file is there.
    files[READY.removeprefix(f"{FOLDER}/")] = b""
    return _tar(files)


def _environment(proxies: Proxies) -> dict[str, str]:
    found = {"HTTP_PROXY": proxies.http, "HTTPS_PROXY": proxies.https}
    wanted = {name: value for name, value in found.items() if value}
    if wanted:
        wanted["NO_PROXY"] = ",".join(filter(None, (proxies.no_proxy, DOOR_HOST)))
    return wanted


def _registries(rules: RegistryRules, with_certificates: Sequence[str]) -> list[RegistrySettings]:
    hosts = {
        host: RegistrySettings(host, certificates=f"{FOLDER}/{_CERTIFICATES}/{host}") for host in with_certificates
    }
    insecure = [host for host in rules.insecure if not _is_subnet(host)]
    if len(insecure) < len(rules.insecure):
        log.warning("builds do not use the subnets of --insecure-registry: BuildKit knows insecure registries by name")
    mirrors = []
    for mirror in rules.mirrors:
        scheme, separator, rest = mirror.rstrip("/").rpartition("://")
        mirrors.append(rest)
        if separator and scheme.lower() == "http":
            insecure.append(rest.partition("/")[0])
    for host in insecure:
        known = hosts.get(host) or RegistrySettings(host)
        hosts[host] = RegistrySettings(host, insecure=True, certificates=known.certificates)
    if mirrors:
        known = hosts.get(_HUB) or RegistrySettings(_HUB)
        hosts[_HUB] = RegistrySettings(_HUB, tuple(mirrors), known.insecure, known.certificates)
    return [hosts[host] for host in sorted(hosts)]


def _is_subnet(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _certificates(folder: Path) -> dict[str, dict[str, bytes]]:
    """The CAs and client certificates of registries, by host and file name."""
    found: dict[str, dict[str, bytes]] = {}
    total = 0
    for path in sorted(folder.glob("*/*")):
        if path.suffix in _CERTIFICATE_SUFFIXES and path.is_file():
            total += path.stat().st_size
            if total > _MOST_CERTIFICATE_BYTES:
                raise InvalidParameter(
                    f"the certificates in {folder} are larger than {_MOST_CERTIFICATE_BYTES >> 10} KiB"
                )
            found.setdefault(path.parent.name, {})[path.name] = path.read_bytes()
    return found


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders: set[str] = set()
        for name, content in files.items():
            for above in reversed(Path(name).parents[:-1]):
                if str(above) not in folders:
                    folders.add(str(above))
                    entry = tarfile.TarInfo(str(above))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o700
                    tar.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
