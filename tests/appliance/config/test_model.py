"""Defaults that depend on the environment."""

import sys
from pathlib import Path

import pytest

from appliance.config import Config, default_guest, parse_arguments


def test_certificates_are_where_docker_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certificates")
    assert Config().tlscacert == Path("/certificates/ca.pem")
    assert parse_arguments([]).tlskey == Path("/certificates/key.pem")
    monkeypatch.delenv("DOCKER_CERT_PATH")
    monkeypatch.setenv("HOME", "/home/me")
    assert Config().tlscert == Path("/home/me/.docker/cert.pem")


def test_the_guest_beside_the_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert default_guest() == Path("/usr/share/vch/guest")
    (tmp_path / "share/vch/guest").mkdir(parents=True)
    assert default_guest() == parse_arguments([]).guest == tmp_path / "share/vch/guest"
    assert parse_arguments(["--guest", "/mine"]).guest == Path("/mine")


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert Config().cache == Path("/cache/vch")
