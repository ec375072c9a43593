"""The OVA: its files, manifest and signature."""

import hashlib
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.provision.certificates import Authority
from build.ova.pack import pack, signature
from tests.build.ova.schema import faults
from tests.live.certificates import self_signed


def _members(ova: Path) -> dict[str, bytes]:
    with tarfile.open(ova) as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def test_an_ova_is_complete_and_the_same_each_time(tmp_path: Path) -> None:
    system = tmp_path / "system"
    system.write_bytes(b"system".ljust(1 << 20, b"\0"))
    pack("vch", system, tmp_path, tmp_path / "one.ova")
    pack("vch", system, tmp_path, tmp_path / "two.ova")
    assert (tmp_path / "one.ova").read_bytes() == (tmp_path / "two.ova").read_bytes()
    members = _members(tmp_path / "one.ova")
    assert list(members) == ["vch.ovf", "vch.mf", "vch-system.vmdk", "vch-data.vmdk"]
    assert faults(members["vch.ovf"]) == []
    lines = members["vch.mf"].decode().splitlines()
    for name in ("vch.ovf", "vch-system.vmdk", "vch-data.vmdk"):
        assert f"SHA256({name})= {hashlib.sha256(members[name]).hexdigest()}" in lines


def test_the_signature_of_the_manifest(tmp_path: Path) -> None:
    system = tmp_path / "system"
    system.write_bytes(bytes(1 << 20))
    certificate, key = self_signed(tmp_path, "127.0.0.1", rsa=True)
    pack("vch", system, tmp_path, tmp_path / "signed.ova", (key, certificate))
    members = _members(tmp_path / "signed.ova")
    assert list(members)[:3] == ["vch.ovf", "vch.mf", "vch.cert"]
    line, _, chain = members["vch.cert"].partition(b"\n")
    public = x509.load_pem_x509_certificate(chain).public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    made = bytes.fromhex(line.removeprefix(b"SHA256(vch.mf)= ").decode())
    public.verify(made, members["vch.mf"], padding.PKCS1v15(), hashes.SHA256())


def test_only_rsa_signs(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "ca", "x").sign_server(["x"])
    (tmp_path / "certificate").write_text(certificate)
    (tmp_path / "key").write_text(key)
    with pytest.raises(SystemExit, match="an OVF signature needs an RSA key"):
        signature("x.mf", b"", tmp_path / "key", tmp_path / "certificate")
