"""`vch delete`: what is refused, what is removed in which order, what stays."""

import pytest

from appliance.cli.report import REFUSED, Ended
from tests.appliance.cli.fakes import FakeAppliances, Vch, deployed


async def test_running_containers_are_not_deleted_without_force(monkeypatch: pytest.MonkeyPatch) -> None:
    appliances = FakeAppliances(deployed(), containers=(("web", True),))
    with pytest.raises(Ended, match="containers that are running: web; stop them, or use --force") as caught:
        await Vch(monkeypatch, appliances)("delete", "prod")
    assert caught.value.status == REFUSED
    assert appliances.done == []


async def test_the_appliance_stops_before_its_containers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**deployed().values, "volume-stores": "fast=SSD,shared=nfs://nas.example/export"}
    appliances = FakeAppliances(deployed(values=values), containers=(("web", True), ("job", False)))
    appliances.kept = ["[SSD] prod/kept.disk.vmdk"]
    await Vch(monkeypatch, appliances)("delete", "prod", "--force")
    assert appliances.done == [
        "power off appliance",
        "power off ref-web",
        "keep disks of ref-web",
        "destroy ref-web",
        "keep disks of ref-job",
        "destroy ref-job",
        "remove files",
        "destroy appliance",
        "remove extension prod",
        "remove pool",
        "remove folder",
    ]
    said = capsys.readouterr().out
    assert "prod is deleted" in said
    assert "  nfs://nas.example/export" in said
    assert "  [SSD] prod/kept.disk.vmdk" in said


async def test_volumes_go_only_when_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    appliances = FakeAppliances(deployed(power="poweredOff"))
    appliances.kept = ["x"]
    await Vch(monkeypatch, appliances)("delete", "prod", "--volumes")
    assert appliances.done[0] == "remove files and volumes"
    assert "These volumes stay" not in capsys.readouterr().out
