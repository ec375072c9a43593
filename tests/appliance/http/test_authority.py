"""Certificates between vchd and its machines."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.http.authority import Authority


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_identities() -> None:
    authority = Authority()
    root = x509.load_pem_x509_certificate(authority.pem)
    pem, key = authority.identity("door", ["vch.internal"])
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(root)
    assert _common_name(certificate) == "door"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["vch.internal"]
    constraints = [one.extensions.get_extension_for_class(x509.BasicConstraints).value for one in (root, certificate)]
    assert [one.ca for one in constraints] == [True, False]
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    # The clock of a guest may be wrong.
    assert certificate.not_valid_before_utc.year == 2000
    plain = x509.load_pem_x509_certificate(authority.identity("guest")[0])
    assert len(plain.extensions) == 1
    assert isinstance(plain.public_key(), ec.EllipticCurvePublicKey)
    assert _common_name(root) != _common_name(x509.load_pem_x509_certificate(Authority().pem))
