"""The vSphere server of a command, and where its password comes from."""

import sys
from pathlib import Path

import pytest

from appliance.cli.target import password_of, server_of
from appliance.errors import InvalidParameter
from tests.appliance.cli.fakes import parse


def test_a_password_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("from file \n")
    monkeypatch.setenv("VCH_PASSWORD", "from environment")
    assert password_of(tmp_path / "password", "VCH_PASSWORD", "admin") == "from file "
    assert password_of(None, "VCH_PASSWORD", "admin") == "from environment"
    with pytest.raises(InvalidParameter, match="/nowhere"):
        password_of(Path("/nowhere"), "VCH_PASSWORD", "admin")


def test_a_password_comes_from_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VCH_PASSWORD", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(InvalidParameter, match=r"no password for admin: use --password-file or \$VCH_PASSWORD"):
        password_of(None, "VCH_PASSWORD", "admin")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt}")
    assert password_of(None, "VCH_PASSWORD", "admin") == "typed at Password for admin: "


def test_the_server_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCH_PASSWORD", "s3cret")
    server = server_of(parse("ls"))
    assert (server.host, server.port, server.user, server.password) == ("vc.example", 443, "admin", "s3cret")
    options = parse("ls")
    options.target = "[2001:db8::1]:8443"
    assert (server_of(options).host, server_of(options).port) == ("2001:db8::1", 8443)
