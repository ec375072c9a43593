"""Certificates and keys that come as text through a form: PEM, or base64 of PEM. All functions raise ValueError for a malformed text."""

import base64
import binascii
import re

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


def pem(text: str) -> str:
    """Well-formed PEM. A form may have turned the line ends of the text into blanks, or the text is base64 of PEM."""
    if not text:
        return ""
    if "-----BEGIN" not in text:
        try:
            text = base64.b64decode(text, validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError("neither PEM nor base64 of PEM") from error
    blocks = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----\s*(.*?)\s*-----END \1-----", text, re.S)
    if not blocks:
        raise ValueError("the text holds no PEM block")
    out = []
    for name, body in blocks:
        digits = re.sub(r"\s+", "", body)
        lines = [digits[start : start + 64] for start in range(0, len(digits), 64)]
        out.append("\n".join((f"-----BEGIN {name}-----", *lines, f"-----END {name}-----")))
    return "\n".join(out) + "\n"


def certificates(text: str) -> str:
    """PEM of one certificate or more."""
    found = pem(text)
    if found:
        x509.load_pem_x509_certificates(found.encode())
    return found


def private_key(text: str) -> str:
    """PEM of a private key without a password."""
    found = pem(text)
    if found:
        try:
            load_pem_private_key(found.encode(), None)
        except TypeError as error:
            raise ValueError("the key has a password") from error
    return found


def belong_together(certificate: str, key: str) -> bool:
    """Whether the key is the key of the (first) certificate. Both are PEM."""
    first = x509.load_pem_x509_certificates(certificate.encode())[0]
    return _encoded(first.public_key()) == _encoded(load_pem_private_key(key.encode(), None).public_key())


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key(text: str) -> str:
    """A public key of SSH in one line, or an empty text."""
    if text and not re.fullmatch(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?", text):
        raise ValueError("expected one line with a public key, for example ssh-ed25519 AAAA... NAME")
    return text
