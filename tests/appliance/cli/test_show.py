"""`vch ls` and `vch inspect`."""

import json

import pytest

from tests.appliance.cli.fakes import FakeAppliances, Vch, deployed


async def test_ls_counts_containers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    vch = Vch(monkeypatch, FakeAppliances(deployed(), containers=(("web", True), ("job", False))))
    await vch("ls")
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "TENANT", "VERSION", "POWER", "DOCKER_HOST", "RUNNING"]
    assert row.split() == ["vm-1", "prod", "prod", "1.0", "poweredOn", "tcp://192.0.2.10:2376", "1", "of", "2"]
    await vch("ls", "-q")
    assert capsys.readouterr().out == "prod\n"
    await vch("ls", "--json")
    assert json.loads(capsys.readouterr().out)[0]["containers"] == {"all": 2, "running": 1}


async def test_inspect_shows_no_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one = deployed()
    secret = deployed(values={**one.values, "vsphere-password": "s3cret", "registry-ca": "first\nsecond"})
    await Vch(monkeypatch, FakeAppliances(secret))("inspect", "prod")
    said = capsys.readouterr().out
    assert "DOCKER_HOST:  tcp://192.0.2.10:2376" in said
    assert "  registry-ca: first ...\n" in said
    assert "s3cret" not in said
    unknown = deployed(values={}, address="")
    await Vch(monkeypatch, FakeAppliances(unknown))("inspect", "prod")
    assert "unknown: the appliance has not reported its address" in capsys.readouterr().out


async def test_conf_is_a_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**deployed().values, "labels": "a=b,c=d", "vm-memory": "", "vm-pool": "2", "tls-verify": "false"}
    await Vch(monkeypatch, FakeAppliances(deployed(values=values)))("inspect", "prod", "--conf")
    said = capsys.readouterr().out
    assert said.startswith("vch create --target vc.example --user admin --name prod ")
    for words in ("--label a=b --label c=d", "--container-pool 2", "--public-address 192.0.2.10/24", "--no-tlsverify"):
        assert f" {words}" in said
    # Defaults need no option.
    assert "--container-memory" not in said
