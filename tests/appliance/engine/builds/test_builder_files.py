"""The files that the builder gets: what the daemon's settings for registries become."""

import io
import logging
import tarfile
import tomllib
from pathlib import Path

import pytest

from appliance.engine.builds.builder_files import RegistryRules, builder_archive
from appliance.errors import InvalidParameter
from appliance.registry import Proxies

_KEYS = {"door-ca.pem": b"ca", "door-cert.pem": b"cert", "door-key.pem": b"key"}


def _files(rules: RegistryRules) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(builder_archive("vch.internal:5", _KEYS, rules, 4))) as tar:
        members = tar.getmembers()
        assert members[-1].name == "ready"
        assert {member.mode for member in members if member.isfile()} == {0o600}
        assert {member.mode for member in members if member.isdir()} <= {0o700}
        files = {}
        for member in members:
            file = tar.extractfile(member)
            if file is not None:
                files[member.name] = file.read()
        return files


def _registries(rules: RegistryRules) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = tomllib.loads(_files(rules)["buildkitd.toml"].decode())["registry"]
    return {host: settings for host, settings in found.items() if host != "vch.internal:5"}


def test_the_plain_set(tmp_path: Path) -> None:
    files = _files(RegistryRules(certificates=tmp_path / "none"))
    assert set(files) == {*_KEYS, "buildkitd.toml", "start", "ready"}
    assert files["door-key.pem"] == b"key"
    assert b"export" not in files["start"]
    settings = tomllib.loads(files["buildkitd.toml"].decode())
    assert settings["registry"] == {
        "vch.internal:5": {
            "ca": ["/run/vch/door-ca.pem"],
            "keypair": [{"key": "/run/vch/door-key.pem", "cert": "/run/vch/door-cert.pem"}],
        }
    }


def test_registries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for host, name in (
        ("private.example:5000", "ca.crt"),
        ("private.example:5000", "client.key"),
        ("docker.io", "x.crt"),
    ):
        (tmp_path / host).mkdir(exist_ok=True)
        (tmp_path / host / name).write_bytes(name.encode())
    (tmp_path / "private.example:5000/notes.txt").write_text("not for the builder")
    with caplog.at_level(logging.WARNING):
        rules = RegistryRules(
            mirrors=("https://mirror.example/", "http://plain.example:81/path"),
            insecure=("private.example:5000", "10.0.0.0/8", "lab"),
            certificates=tmp_path,
        )
        assert _registries(rules) == {
            "docker.io": {
                "mirrors": ["mirror.example", "plain.example:81/path"],
                "tlsconfigdir": ["/run/vch/certs/docker.io"],
            },
            "plain.example:81": {"http": True, "insecure": True},
            "private.example:5000": {
                "http": True,
                "insecure": True,
                "tlsconfigdir": ["/run/vch/certs/private.example:5000"],
            },
            "lab": {"http": True, "insecure": True},
        }
    assert "subnets of --insecure-registry" in caplog.text
    found = {name for name in _files(rules) if name.startswith("certs/")}
    assert found == {
        "certs/private.example:5000/ca.crt",
        "certs/private.example:5000/client.key",
        "certs/docker.io/x.crt",
    }


def test_certificates_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/ca.crt").write_bytes(bytes(600 << 10))
    with pytest.raises(InvalidParameter, match="larger than 512 KiB"):
        _files(RegistryRules(certificates=tmp_path))


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/ca.crt").symlink_to("/proc/self/mem")
    with pytest.raises(InvalidParameter, match=r"certificates of registries cannot be read: .*Input/output error"):
        _files(RegistryRules(certificates=tmp_path))


def test_proxies(tmp_path: Path) -> None:
    proxies = Proxies("http://user:secret@proxy", "", "intern.example")
    rules = RegistryRules(certificates=tmp_path, proxies=proxies)
    start = _files(rules)["start"].decode().splitlines()
    assert [line for line in start if line.startswith("export")] == [
        "export HTTP_PROXY=http://user:secret@proxy",
        # The door is reached directly.
        "export NO_PROXY=intern.example,vch.internal",
    ]
    assert "secret" not in repr(rules)
