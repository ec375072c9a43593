"""`vch upgrade`: what is refused, and the version of an OVA."""

from pathlib import Path

import pytest

from appliance.cli import upgrade
from appliance.cli.package import OvaFile
from appliance.cli.report import REFUSED, TOO_LATE, Ended
from build.ova.pack import pack
from tests.appliance.cli.fakes import FakeAppliances, Vch, deployed


class _Upgrades:
    """Remembers the steps of an upgrade, by an appliance that has no snapshot."""

    def __init__(self, appliances: FakeAppliances, one: object) -> None:
        self._done = appliances.done

    async def previous(self) -> None:
        return None

    async def begin(self) -> None:
        self._done.append("begin")

    async def swap(self, package: OvaFile, version: str, on_progress: object) -> None:
        self._done.append(f"swap to {version}")

    async def roll_back(self) -> None:
        self._done.append("roll back")

    async def commit(self) -> None:
        self._done.append("commit")


@pytest.fixture(scope="module")
def ova(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ova")
    (folder / "system").write_bytes(bytes(1 << 20))
    pack("vch", folder / "system", folder, folder / "vch.ova", version="2.0")
    return folder / "vch.ova"


@pytest.fixture
def vch(monkeypatch: pytest.MonkeyPatch) -> Vch:
    monkeypatch.setattr(upgrade, "Upgrades", _Upgrades)
    return Vch(monkeypatch, FakeAppliances(deployed()))


def _boots(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> None:
    left = list(answers)

    async def boot(*arguments: object) -> bool:
        return left.pop(0)

    monkeypatch.setattr(upgrade, "boot", boot)


def test_the_version_is_in_the_descriptor(ova: Path) -> None:
    assert upgrade.version_of(OvaFile(ova)) == "2.0"


async def test_an_upgrade(
    vch: Vch, ova: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _boots(monkeypatch, True)
    await vch("upgrade", "prod", "--ova", str(ova))
    assert vch.appliances.done == ["power off appliance", "begin", "swap to 2.0"]
    assert "prod now has the version 2.0 (before: 1.0)" in capsys.readouterr().out


async def test_a_version_that_does_not_come_up_is_rolled_back(
    vch: Vch, ova: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _boots(monkeypatch, False, True)
    with pytest.raises(Ended, match=r"did not come up with 2\.0; it has the version 1\.0 again") as caught:
        await vch("upgrade", "prod", "--ova", str(ova))
    assert caught.value.status == TOO_LATE
    assert vch.appliances.done[-1] == "roll back"


async def test_refusals(vch: Vch, ova: Path) -> None:
    vch.appliances.found["prod"] = deployed(version="2.0")
    for words, text in (
        (("--ova", str(ova)), "already has the version 2.0"),
        (("--rollback",), "no snapshot to roll back to"),
    ):
        with pytest.raises(Ended, match=text) as caught:
            await vch("upgrade", "prod", *words)
        assert caught.value.status == REFUSED
    assert vch.appliances.done == []


async def test_commit(vch: Vch, capsys: pytest.CaptureFixture[str]) -> None:
    await vch("upgrade", "prod", "--commit")
    assert vch.appliances.done == ["commit"]
    assert "prod keeps the version 1.0" in capsys.readouterr().out
