"""Login as an extension of a vCenter's: by a certificate of one's own, so that there is no password that somebody has to keep.

A ticket that is good for one session, and soon for none, is all that it takes to begin with: in that session the extension is
registered with a certificate whose key never leaves this host. vSphere Web Services API: CloneSession, ExtensionManager,
LoginExtensionByCertificate. The last is taken at a virtual host, sdkTunnel:8089, to which port 80 of a vCenter leads (CONNECT).
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
    """What the extension of a tenant's appliance is called."""
    return f"vch.{tenant}"


@dataclass(frozen=True, slots=True)
class Extension:
    """`folder` has its certificate and key, and is nobody else's; `ticket_file` has the ticket where there is none yet.

    `tunnel_port` of the server leads to the virtual host; with 0 it is logged in where everything else is asked.
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
        """Whether there is one, good or not."""
        return self.ticket_file is not None and self.ticket_file.exists() and self.ticket_file.stat().st_size > 0

    def ticket(self) -> str:
        """The ticket to begin with. InvalidParameter when there is none."""
        text = ""
        if self.ticket_file is not None:
            try:
                text = self.ticket_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidParameter(f"--vsphere-ticket-file {self.ticket_file}: {error}") from error
        if not text:
            raise InvalidParameter(
                f"--vsphere-extension {self.key}: it is not registered yet, and there is no ticket to do so (--vsphere-ticket-file)"
            )
        return text

    def present(self, context: ssl.SSLContext) -> None:
        """Have connections prove by its certificate who they are of. InvalidParameter when that cannot be read."""
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"{self.certificate}: {error}") from error

    def register(self, manager: Any, version: str) -> None:
        """With vCenter's extension manager, in a session that may. Blocking; errors are pyVmomi's."""
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
        # Only what is registered is a certificate of it.
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
