"""Certificates for connections between vchd and its machines, signed by a key that is never stored."""

import datetime
import secrets
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A CA that lives as long as this object. `pem` is its certificate."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vch {secrets.token_hex(8)}")])
        self.pem = self._sign(self._name, self._key.public_key(), authority=True)

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, hosts: Sequence[str] = (), *, authority: bool
    ) -> bytes:
        # The validity covers any clock: programs in the guest may change the time.
        begin = datetime.datetime(2000, 1, 1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        )
        if hosts:
            # Go's TLS compares the host with these names alone.
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def identity(self, name: str, hosts: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """A new certificate for a name, and its key; both in PEM. A server with the certificate is known as each of `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), hosts, authority=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate, private
