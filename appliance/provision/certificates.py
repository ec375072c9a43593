"""Certificates of an appliance, PEM: vch's own CA and the certificates it signs. New keys are elliptic-curve keys (P-256)."""

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import InvalidParameter

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_CA_DAYS, _DAYS = 3650, 825
# Certificates start to be valid before they are made, since clocks differ.
_EARLIER = datetime.timedelta(hours=24)


class Authority:
    """A CA in a folder (ca.pem, ca-key.pem). An existing CA is used again, so that the certificates it has signed stay valid."""

    def __init__(self, folder: Path, name: str, *, must_be: bool = False) -> None:
        """Load the CA, or create one unless `must_be`. InvalidParameter when the files are not a CA, or missing with `must_be`.

        `found` is True for a CA that existed before.
        """
        self.folder = folder
        certificate, key = folder / "ca.pem", folder / "ca-key.pem"
        self.found = certificate.exists() and key.exists()
        if self.found:
            try:
                self._certificate = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
                found = load_pem_private_key(key.read_bytes(), None)
            except (OSError, ValueError, TypeError, IndexError) as error:
                raise InvalidParameter(f"{folder}: no usable CA: {error}") from error
            if not isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
                raise InvalidParameter(f"{folder}: ca-key.pem is neither an RSA nor an elliptic-curve key")
            if found.public_key() != self._certificate.public_key():
                raise InvalidParameter(f"{folder}: ca-key.pem is not the key of ca.pem")
            self._key: _Key = found
        elif must_be:
            raise InvalidParameter(f"{folder}: there is no CA (ca.pem, ca-key.pem); give its folder by --cert-path")
        elif certificate.exists():
            raise InvalidParameter(
                f"{folder}: there is a ca.pem without its ca-key.pem; give another folder by --cert-path"
            )
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            subject = _subject(f"{name} CA")
            self._certificate = (
                builder(subject, subject, self._key.public_key(), _CA_DAYS)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(signs_certificates=True), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
                .sign(self._key, hashes.SHA256())
            )
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(key, pem_of(self._key))
            write_public(certificate, self._certificate.public_bytes(Encoding.PEM))

    @property
    def certificate(self) -> str:
        """The CA's certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def sign_server(self, names: Sequence[str]) -> tuple[str, str]:
        """A certificate for a server with these names and addresses, and its key. The first name is the common name."""
        return self._sign(names[0], names, ExtendedKeyUsageOID.SERVER_AUTH)

    def sign_client(self, name: str) -> tuple[str, str]:
        """A certificate for a client, and its key."""
        return self._sign(name, (), ExtendedKeyUsageOID.CLIENT_AUTH)

    def _sign(self, name: str, names: Sequence[str], purpose: x509.ObjectIdentifier) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        begun = (
            builder(_subject(name), self._certificate.subject, key.public_key(), _DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )
        if names:
            begun = begun.add_extension(alternatives(names), critical=False)
        made = begun.sign(self._key, hashes.SHA256())
        return made.public_bytes(Encoding.PEM).decode(), pem_of(key).decode()


def write_private(path: Path, content: bytes) -> None:
    """Write a file that no other user can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that every user can read."""
    path.write_bytes(content)
    path.chmod(0o644)


def _subject(name: str) -> x509.Name:
    # X.520 allows 64 characters.
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name[:64]), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "vch")]
    )


def alternatives(names: Iterable[str]) -> x509.SubjectAlternativeName:
    """The subjectAltName extension for these names and addresses."""
    return x509.SubjectAlternativeName([_alternative(name) for name in names])


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, days: int
) -> x509.CertificateBuilder:
    """The builder of a certificate that is valid from yesterday, until `days` from now."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def pem_of(key: _Key) -> bytes:
    """A private key as PEM (PKCS #8)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
