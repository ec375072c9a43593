"""PEM, keys and certificates that come through forms."""

import base64

import pytest

from appliance.provision.pem import belong_together, certificates, pem, private_key, public_key
from appliance.provision.properties import settings_of
from tests.appliance.provision.values import LEAST
from tests.live.certificates import Authority


def test_pem_survives_forms(authority: Authority) -> None:
    text = authority.certificate.read_text()
    for form in (text, text.replace("\n", " "), base64.b64encode(text.encode()).decode(), f"{text}\n{text}"):
        assert settings_of({**LEAST, "tls-ca": form}).tls_ca.startswith(text)
    with pytest.raises(ValueError, match="neither PEM nor base64"):
        pem("-")


def test_only_pem_of_the_right_content_passes(authority: Authority) -> None:
    certificate, key = (path.read_text() for path in authority.sign("/CN=a", "127.0.0.1"))
    assert certificates(certificate) == certificate
    assert private_key(key) == key
    assert belong_together(certificate, key)
    assert (certificates(""), private_key(""), public_key("")) == ("", "", "")
    with pytest.raises(ValueError, match="Unable to load PEM file"):
        certificates(key)
    with pytest.raises(ValueError, match="no BEGIN/END delimiters for a private key"):
        private_key(certificate)
    with pytest.raises(ValueError, match="holds no PEM block"):
        pem("-----BEGIN X-----")


@pytest.mark.parametrize("text", ["nonsense", "ssh-rsa AAAA\nroot::0:0", "command=x ssh-rsa AAAA"])
def test_a_public_key_is_one_line(text: str) -> None:
    assert public_key("ssh-ed25519 AAAA= me") == "ssh-ed25519 AAAA= me"
    with pytest.raises(ValueError, match="one line with a public key"):
        public_key(text)
