"""Login as a vCenter extension, with a certificate of the appliance, so that the appliance stores no password.

The appliance begins with a ticket, which opens one session and expires soon. In that session the appliance registers the extension
with a certificate whose private key never leaves this host. vSphere Web Services API: CloneSession, ExtensionManager,
LoginExtensionByCertificate. vCenter accepts the last call at a virtual host, sdkTunnel:8089, behind port 80 (HTTP CONNECT).
"""

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pyVmomi import vim

from appliance.errors import InvalidParameter
from appliance.provision.certificates import builder, pem_of, write_private

TUNNEL = ("sdkTunnel", 8089)
_DAYS = 3650


def extension_key(tenant: str) -> str:
    """The key of the extension of a tenant's appliance."""
    return f"vch.{tenant}"


@dataclass(frozen=True, slots=True)
class Extension:
    """`folder` holds certificate and private key, and nothing else. `ticket_file` holds the ticket for the registration.

    `tunnel_port` is the server's port that leads to the virtual host; 0 logs in on the main API port.
    """

    key: str
    folder: Path
    ticket_file: Path | None = None
    tunnel_port: int = 80

    @property
    def certificate(self) -> Path:
        return self.folder / "extension.pem"

    @property
    def private_key(self) -> Path:
        return self.folder / "extension-key.pem"

    @property
    def is_registered(self) -> bool:
        return self.certificate.exists()

    @property
    def has_ticket(self) -> bool:
        """Whether the ticket file holds a ticket, valid or not."""
        return self.ticket_file is not None and self.ticket_file.exists() and self.ticket_file.stat().st_size > 0

    def ticket(self) -> str:
        """The ticket for the registration. InvalidParameter when there is no ticket."""
        text = ""
        if self.ticket_file is not None:
            try:
                text = self.ticket_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidParameter(f"--vsphere-ticket-file {self.ticket_file}: {error}") from error
        if not text:
            raise InvalidParameter(
                f"--vsphere-extension {self.key}: not registered yet, and --vsphere-ticket-file holds no ticket for the registration"
            )
        return text

    def present(self, context: ssl.SSLContext) -> None:
        """Add the client certificate to a TLS context. InvalidParameter when the certificate cannot be read."""
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"{self.certificate}: {error}") from error

    def register(self, manager: Any, version: str) -> None:
        """Register with vCenter's extension manager, in a session with that privilege. Blocks. Raises pyVmomi's errors."""
        made = self._make_certificate()
        description = vim.Description(label="vch", summary=f"Virtual container host of the tenant {self.key}")
        extension = vim.Extension(
            key=self.key,
            version=version,
            description=description,
            company="vch",
            type="vch",
            lastHeartbeatTime=datetime.datetime.now(datetime.UTC),
            server=[],
            client=[],
        )
        if manager.FindExtension(self.key) is None:
            manager.RegisterExtension(extension)
        else:
            manager.UpdateExtension(extension)
        manager.SetExtensionCertificate(self.key, made.read_text())
        # The file gets its name once vCenter knows the certificate: its existence means `is_registered`.
        made.rename(self.certificate)

    def _make_certificate(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.key[:64])])
        made = builder(subject, subject, private.public_key(), _DAYS).sign(private, hashes.SHA256())
        write_private(self.private_key, pem_of(private))
        partial = self.certificate.with_suffix(".part")
        write_private(partial, made.public_bytes(Encoding.PEM))
        return partial
