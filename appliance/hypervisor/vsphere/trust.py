"""A TLS context that accepts one server, by the thumbprint of the server's certificate. Any HTTP library can use it.

pyVmomi checks a thumbprint only after the usual verification has failed, and then turns verification off for all later connections.
httpx has no such check. Here the check is part of the handshake, so nothing is sent before it.
"""

import hashlib
import hmac
import ssl
from typing import Any

_HASHES = {40: hashlib.sha1, 64: hashlib.sha256}


class OtherCertificate(OSError):
    """The server's certificate is not the one that was pinned."""


def plain_thumbprint(text: str) -> str:
    """The hexadecimal digits of a thumbprint, without colons and spaces. ValueError when it is neither SHA-1 nor SHA-256."""
    digits = text.replace(":", "").replace(" ", "").lower()
    if len(digits) not in _HASHES or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"{text!r} is neither a SHA-1 nor a SHA-256 thumbprint")
    return digits


class PinnedContext(ssl.SSLContext):
    """Accepts the server whose certificate has this thumbprint, and no other."""

    thumbprint: str

    @classmethod
    def of(cls, thumbprint: str) -> "PinnedContext":
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.thumbprint = plain_thumbprint(thumbprint)
        # Neither the name in the certificate nor its issuer matters.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslsocket_class = _PinnedSocket
        context.sslobject_class = _PinnedObject
        return context

    def verify(self, certificate: bytes | None) -> None:
        """Check a certificate in DER form. OtherCertificate when its thumbprint differs."""
        found = _HASHES[len(self.thumbprint)](certificate or b"").hexdigest()
        if not hmac.compare_digest(found, self.thumbprint):
            raise OtherCertificate(
                f"the thumbprint of its certificate is {found}, not {self.thumbprint} as --thumbprint says"
            )


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, *arguments: Any, **settings: Any) -> None:
        super().do_handshake(*arguments, **settings)
        assert isinstance(self.context, PinnedContext)
        self.context.verify(self.getpeercert(binary_form=True))


class _PinnedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        assert isinstance(self.context, PinnedContext)
        self.context.verify(self.getpeercert(binary_form=True))
