"""The CA of `vch create`: TLS accepts its certificates, an existing CA is used again, a broken CA is refused."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.errors import InvalidParameter
from appliance.provision.certificates import Authority


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A complete handshake in memory. ssl.SSLError when an end refuses the other's certificate."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    left = list(ends)
    for _ in range(10):
        for end in list(left):
            try:
                end.do_handshake()
                left.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not left:
            # With TLS 1.3 the server's verdict on the client certificate comes after the handshake.
            with pytest.raises(ssl.SSLWantReadError):
                ends[0].read(1)
            return
    raise AssertionError("the handshake does not finish")


def _contexts(folder: Path, authority: Authority, names: list[str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    for file, text in zip(
        ("server", "server-key", "client", "client-key"),
        (*authority.sign_server(names), *authority.sign_client("operator")),
        strict=True,
    ):
        (folder / file).write_text(text)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.folder / "ca.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "server", folder / "server-key")
    client = ssl.create_default_context(cafile=authority.folder / "ca.pem")
    client.load_cert_chain(folder / "client", folder / "client-key")
    return server, client


@pytest.mark.parametrize("name", ["docker.example", "192.0.2.10", "a.wild.example"])
def test_tls_accepts_its_certificates(tmp_path: Path, name: str) -> None:
    authority = Authority(tmp_path / "ca", "prod")
    server, client = _contexts(tmp_path, authority, ["docker.example", "192.0.2.10", "*.wild.example"])
    _handshake(server, client, name)


def test_another_name_or_another_ca_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "prod")
    server, client = _contexts(tmp_path, authority, ["docker.example"])
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, client, "other.example")
    stranger = Authority(tmp_path / "other", "prod")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, ssl.create_default_context(cafile=stranger.folder / "ca.pem"), "docker.example")


def test_an_existing_ca_is_used_again(tmp_path: Path) -> None:
    first = Authority(tmp_path, "prod")
    assert not first.found
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    second = Authority(tmp_path, "prod")
    assert second.found
    assert second.certificate == first.certificate


def test_each_certificate_is_for_one_purpose(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "prod")
    for text, purpose in (
        (authority.sign_server(["x"])[0], ExtendedKeyUsageOID.SERVER_AUTH),
        (authority.sign_client("y")[0], ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        found = x509.load_pem_x509_certificate(text.encode())
        assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_broken_ca_is_refused(tmp_path: Path) -> None:
    Authority(tmp_path / "a", "a")
    Authority(tmp_path / "b", "b")
    (tmp_path / "a/ca-key.pem").write_bytes((tmp_path / "b/ca-key.pem").read_bytes())
    with pytest.raises(InvalidParameter, match=r"is not the key of ca\.pem"):
        Authority(tmp_path / "a", "a")
    (tmp_path / "a/ca-key.pem").write_text("nonsense")
    with pytest.raises(InvalidParameter, match="no usable CA"):
        Authority(tmp_path / "a", "a")
    (tmp_path / "a/ca-key.pem").unlink()
    with pytest.raises(InvalidParameter, match="without its ca-key"):
        Authority(tmp_path / "a", "a")
    with pytest.raises(InvalidParameter, match="there is no CA"):
        Authority(tmp_path / "c", "c", must_be=True)
