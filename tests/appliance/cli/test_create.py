"""`vch create` without vSphere: the certificates, the account's password, what is undone after a failure."""

from pathlib import Path

import pytest
import trio
from cryptography import x509

from appliance.cli import create
from appliance.cli.report import Report
from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.preflight import Finding
from tests.appliance.cli.fakes import SERVER, FakeAppliances, parse

_GOOD = ("create", "--ova", "x", "--name", "prod", "--public-address", "192.0.2.10/24")


def test_certificates_are_signed_for_names_and_addresses(tmp_path: Path) -> None:
    options = parse(*_GOOD, "--cert-path", str(tmp_path / "prod"), "--tls-cname", "docker.example")
    values: dict[str, str] = {}
    identity = create._identify(options, Report(as_json=True), values)
    certificate = x509.load_pem_x509_certificate(values["tls-cert"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["docker.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.10"]
    assert values["tls-ca"] == (tmp_path / "prod/ca.pem").read_text()
    assert identity.certificate == (tmp_path / "prod/cert.pem").read_text()
    for name in ("ca-key.pem", "server-key.pem", "key.pem"):
        assert (tmp_path / "prod" / name).stat().st_mode & 0o777 == 0o600
    # A second run uses the CA again.
    again: dict[str, str] = {}
    create._identify(options, Report(as_json=True), again)
    assert again["tls-ca"] == values["tls-ca"]


def test_no_client_certificate_without_verification(tmp_path: Path) -> None:
    options = parse(*_GOOD, "--cert-path", str(tmp_path / "prod"), "--no-tlsverify")
    values: dict[str, str] = {}
    assert create._identify(options, Report(as_json=True), values).certificate == ""
    assert values.keys() == {"tls-cert", "tls-key"}


def test_datastores_and_portgroups_of_well_formed_options() -> None:
    stores = ("--volume-store", "a=SSD", "--volume-store", "b=nfs://nas/export", "--volume-store", "broken")
    networks = ("--container-network", "name=lan,portgroup=LAN", "--container-network", "name=x")
    options = parse(*_GOOD, *stores, *networks)
    assert create._datastores(options) == {"a": "SSD"}
    assert create._portgroups(options) == {"lan": "LAN"}


async def test_the_password_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    findings: list[Finding] = []
    assert await create._ops_password(parse(*_GOOD), SERVER, findings) == "s3cret"
    assert await create._ops_password(parse(*_GOOD, "--ops-extension"), SERVER, findings) == ""
    assert findings == []
    monkeypatch.delenv("VCH_OPS_PASSWORD", raising=False)
    options = parse(*_GOOD, "--ops-user", "ops", "--ops-password-file", "/nowhere")
    assert await create._ops_password(options, SERVER, findings) == ""
    assert [finding.setting for finding in findings] == ["--ops-user"]


async def test_a_failure_removes_what_was_created(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    appliances = FakeAppliances()

    async def end(reference: object) -> None:
        raise HypervisorError("vSphere does not answer")

    monkeypatch.setattr(appliances, "end", end, raising=False)

    async def deploy() -> None:
        async with create._undone_on_failure(appliances, Report(as_json=False)) as made:  # type: ignore[arg-type]
            made.pool, made.folder, made.machine = "pool", "folder", "machine"
            raise HypervisorError("upload")

    with pytest.raises(HypervisorError, match="upload"):
        await deploy()
    # The VM that vSphere did not remove does not keep the others.
    assert appliances.done == ["remove pool", "remove folder"]
    assert "WARNING left behind: vSphere does not answer" in capsys.readouterr().err


async def test_success_removes_nothing() -> None:
    appliances = FakeAppliances()
    async with create._undone_on_failure(appliances, Report(as_json=True)) as made:  # type: ignore[arg-type]
        made.pool = "pool"
        await trio.lowlevel.checkpoint()
    assert appliances.done == []
