"""A vCenter or ESXi: its address, how the server proves its identity, and how the appliance proves its own."""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.extension import Extension
from appliance.hypervisor.vsphere.trust import PinnedContext

_ASSERTION = "{urn:oasis:names:tc:SAML:2.0:assertion}Assertion"


@dataclass(frozen=True, slots=True)
class Server:
    """A vCenter or ESXi. The server proves its identity by the thumbprint of its certificate (SHA-1 or SHA-256), or by a CA of a file.

    The appliance logs in with a user's password, with a token, or as an extension with a certificate. The token is a file with a
    SAML 2.0 bearer assertion of vCenter's single sign-on. The file is read at each login, so an operator can replace the token.
    """

    host: str
    user: str
    password: str = field(repr=False)
    port: int = 443
    thumbprint: str = ""
    ca_file: Path | None = None
    token_file: Path | None = None
    extension: Extension | None = None

    def token(self) -> str:
        """The assertion as a SOAP header holds it. InvalidParameter when the file is not a SAML 2.0 assertion."""
        assert self.token_file is not None
        try:
            root = ElementTree.fromstring(self.token_file.read_bytes())
        except (OSError, ElementTree.ParseError) as error:
            raise InvalidParameter(f"--vsphere-token-file {self.token_file}: {error}") from error
        if root.tag != _ASSERTION:
            raise InvalidParameter(f"--vsphere-token-file {self.token_file}: not a SAML 2.0 assertion")
        # The text stays as it is, because it is signed.
        text = self.token_file.read_text().strip()
        return re.sub(r"^<\?xml[^>]*\?>\s*", "", text)

    def context(self) -> ssl.SSLContext:
        """The TLS context for connections to the server. InvalidParameter when the thumbprint or the CA file is malformed."""
        if self.thumbprint:
            try:
                return PinnedContext.of(self.thumbprint)
            except ValueError as error:
                raise InvalidParameter(f"--thumbprint: {error}") from error
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"--vsphere-ca {self.ca_file}: {error}") from error
