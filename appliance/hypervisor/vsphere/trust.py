"""A TLS context for one server that is known by its certificate's thumbprint, for whatever library makes the connections.

pyVmomi's own check is made only where the usual one has failed, and turns verification off for all that come after; httpx has none.
Here it is a part of the handshake: nothing is sent before it.
"""

import hashlib
import hmac
import ssl
from typing import Any

_HASHES = {40: hashlib.sha1, 64: hashlib.sha256}


class OtherCertificate(OSError):
    """The server's certificate is not the one that was pinned."""


def plain_thumbprint(text: str) -> str:
    """Hexadecimal digits without what people put between. ValueError when it is neither SHA-1's nor SHA-256's."""
    digits = text.replace(":", "").replace(" ", "").lower()
    if len(digits) not in _HASHES or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"{text!r} is neither a SHA-1 nor a SHA-256 thumbprint")
    return digits


class PinnedContext(ssl.SSLContext):
    """Believes whoever has the certificate of this thumbprint, and nobody else."""

    thumbprint: str

    @classmethod
    def of(cls, thumbprint: str) -> "PinnedContext":
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.thumbprint = plain_thumbprint(thumbprint)
        # By what it is called, and by whom it is vouched for, is not asked.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslsocket_class = _PinnedSocket
        context.sslobject_class = _PinnedObject
        return context

    def verify(self, certificate: bytes | None) -> None:
        """OtherCertificate when it is not the one (DER)."""
        found = _HASHES[len(self.thumbprint)](certificate or b"").hexdigest()
        if not hmac.compare_digest(found, self.thumbprint):
            raise OtherCertificate(
                f"its certificate's thumbprint is {found}, and not {self.thumbprint} as --thumbprint says"
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
