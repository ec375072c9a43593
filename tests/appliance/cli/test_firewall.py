"""`vch update firewall`: each host of the cluster is changed, or nothing is."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from appliance.cli import firewall
from appliance.cli.report import REFUSED, Ended
from appliance.hypervisor.vsphere.preflight import FIREWALL_RULES, Finding
from tests.appliance.cli.fakes import FakeAppliances, Vch


class _Firewall:
    """The firewall of a host, which is its own state."""

    allowed = False

    def EnableRuleset(self, rules: str) -> None:
        assert rules == FIREWALL_RULES
        self.allowed = True

    def DisableRuleset(self, rules: str) -> None:
        assert rules == FIREWALL_RULES
        self.allowed = False


class _Preflight:
    """A cluster with these hosts; without hosts there is no such cluster."""

    def __init__(self, hosts: dict[str, _Firewall]) -> None:
        self._hosts = hosts
        self.problems: list[Finding] = []

    async def find_compute(self) -> None:
        if not self._hosts:
            self.problems.append(Finding("--compute-resource", "nowhere: there is none of that name", ""))

    async def hosts(self) -> list[tuple[str, _Firewall]]:
        return list(self._hosts.items())


def _vch(monkeypatch: pytest.MonkeyPatch, hosts: dict[str, _Firewall]) -> Vch:
    async def look(what: str, reference: _Firewall, path: str) -> object:
        return reference if path == "configManager.firewallSystem" else reference.allowed

    async def change(what: str, method: Callable[[str], None], rules: str) -> None:
        method(rules)

    appliances = FakeAppliances()
    appliances.session = SimpleNamespace(look=look, change=change)
    monkeypatch.setattr(firewall, "Preflight", lambda *_: _Preflight(hosts))
    monkeypatch.setattr(firewall, "allows", bool)
    return Vch(monkeypatch, appliances)


async def test_each_host_is_changed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = {"esx1": _Firewall(), "esx2": _Firewall()}
    vch = _vch(monkeypatch, hosts)
    await vch("update", "firewall", "--allow")
    assert all(host.allowed for host in hosts.values())
    assert capsys.readouterr().out == "esx1: serial ports are allowed\nesx2: serial ports are allowed\n"
    await vch("update", "firewall", "--deny")
    assert capsys.readouterr().out == "esx1: serial ports are blocked\nesx2: serial ports are blocked\n"


async def test_an_unknown_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended, match="nothing was changed") as caught:
        await _vch(monkeypatch, {})("update", "firewall", "--allow")
    assert caught.value.status == REFUSED
