"""From the values of the OVF properties (DSP0243, 9.5) to the settings of an appliance, and of the vchd in it."""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.config.table import DAEMON_SETTINGS
from appliance.provision.interfaces import Interface, read_interfaces
from appliance.provision.pem import belong_together
from appliance.provision.reader import Malformed, Reader

# The folder of what `vch-provision` writes at each boot.
FOLDER = "/run/appliance"
_LOGINS = ("password", "extension")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an appliance.

    `vchd` is the content of vchd's configuration file, by its keys; `files` the texts of the files that it refers to, by the names
    of the files in FOLDER.
    """

    hostname: str
    interfaces: tuple[Interface, ...]
    dns: tuple[str, ...]
    search: tuple[str, ...]
    ntp: tuple[str, ...]
    vchd: dict[str, object]
    files: dict[str, str]
    verify: bool
    registry_ca: str
    ssh: bool
    ssh_key: str
    root_password: str

    @property
    def tls_ca(self) -> str:
        """The CAs of clients, PEM, or ""."""
        return self.files.get("ca.pem", "")

    @property
    def tls_cert(self) -> str:
        """The API's certificate, PEM; "" when the appliance has to sign one itself."""
        return self.files.get("cert.pem", "")

    @property
    def tls_key(self) -> str:
        """The key of the API's certificate, PEM, or ""."""
        return self.files.get("key.pem", "")


def settings_of(values: Mapping[str, str]) -> Settings:
    """The settings that the values mean. Malformed has all problems. Unknown properties, for example of a newer vCenter, are ignored."""
    reader = Reader(values)
    interfaces = read_interfaces(reader)
    vchd, files = _translated(reader)
    _log_in(reader, vchd, files)
    verify = reader.boolean("tls-verify")
    _secure(reader, vchd, files, verify)
    settings = Settings(
        hostname=reader.checked("hostname"),
        interfaces=interfaces,
        dns=tuple(reader.checked_items("dns")),
        search=tuple(reader.checked_items("search")),
        ntp=tuple(reader.checked_items("ntp")),
        vchd=vchd,
        files=files,
        verify=verify,
        registry_ca=reader.pem("registry-ca"),
        ssh=reader.boolean("ssh"),
        ssh_key=reader.pem("ssh-key"),
        root_password=reader.text("root-password"),
    )
    if reader.problems:
        raise Malformed(reader.problems)
    return settings


def _translated(reader: Reader) -> tuple[dict[str, object], dict[str, str]]:
    """The content of vchd's configuration file, and the files that it refers to: a property each, by the table of settings."""
    # An empty property leaves the default to vchd. Here the appliance is stricter than vchd, also when the property is empty.
    content: dict[str, object] = {"hypervisor": "vsphere", "docker-socket-default": "scoped"}
    sections: dict[str, dict[str, object]] = {}
    files: dict[str, str] = {}
    for row in DAEMON_SETTINGS:
        found = row.property
        if found is None or not found.translated:
            continue
        value = reader.value(found.key)
        if value is None:
            continue
        if found.file:
            files[found.file] = str(value)
            value = f"{FOLDER}/{found.file}"
        (sections.setdefault(row.section, {}) if row.section else content)[row.key] = value
    return {**content, **sections}, files


def _log_in(reader: Reader, vchd: dict[str, object], files: dict[str, str]) -> None:
    """Leave what the kind of login needs: user and password, or an extension, its ticket and the tunnel port."""
    required = ["vsphere", "bridge-network"]
    if reader.read("vsphere-login", _login, "password") == "extension":
        vchd["vsphere-extension"] = f"vch.{reader.text('tenant')}"
        unused, unused_file = ("vsphere-user", "vsphere-password-file"), "vsphere-password"
    else:
        required += ["vsphere-user", "vsphere-password"]
        unused, unused_file = ("vsphere-tunnel-port", "vsphere-ticket-file"), "vsphere-ticket"
    for key in unused:
        vchd.pop(key, None)
    files.pop(unused_file, None)
    reader.problems += [f"{key}: is required" for key in required if not reader.text(key)]


def _login(text: str) -> str:
    if text not in _LOGINS:
        raise ValueError(f"{text!r} is not one of {', '.join(_LOGINS)}")
    return text


def _secure(reader: Reader, vchd: Mapping[str, object], files: Mapping[str, str], verify: bool) -> None:
    """Check what belongs together for TLS."""
    if vchd.get("tls-allow") and not verify:
        reader.problems.append("tls-allow: needs tls-verify: without it clients do not prove who they are")
    certificate, key = files.get("cert.pem", ""), files.get("key.pem", "")
    if bool(certificate) != bool(key):
        reader.problems.append("tls-key: tls-cert and tls-key belong together: set both or neither")
    elif certificate and not belong_together(certificate, key):
        reader.problems.append("tls-key: the key is not the certificate's")
