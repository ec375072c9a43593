"""How the server proves its identity, and how the appliance logs in with a token."""

import ssl
from pathlib import Path

import pytest

from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.trust import PinnedContext

_ASSERTION = '<saml2:Assertion xmlns:saml2="urn:oasis:names:tc:SAML:2.0:assertion" ID="_1"/>'


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Server("vcenter", "user", "secret"))


def test_contexts(tmp_path: Path) -> None:
    assert isinstance(Server("vcenter", "user", "", thumbprint="ab" * 32).context(), PinnedContext)
    usual = Server("vcenter", "user", "").context()
    assert (usual.check_hostname, usual.verify_mode) == (True, ssl.CERT_REQUIRED)
    with pytest.raises(InvalidParameter, match="--thumbprint"):
        Server("vcenter", "user", "", thumbprint="ab").context()
    with pytest.raises(InvalidParameter, match="--vsphere-ca"):
        Server("vcenter", "user", "", ca_file=tmp_path / "none").context()


def test_a_token_is_read_at_each_login(tmp_path: Path) -> None:
    path = tmp_path / "token"
    server = Server("vcenter", "user", "", token_file=path)
    for text in (_ASSERTION, _ASSERTION.replace("_1", "_2")):
        path.write_text(f'<?xml version="1.0"?>\n{text}\n')
        assert server.token() == text


@pytest.mark.parametrize("text", ["", "token", "<other/>"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(InvalidParameter, match="--vsphere-token-file"):
        Server("vcenter", "user", "", token_file=path).token()
