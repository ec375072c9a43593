"""`vch configure`: what changes, what is refused, and the way back."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.cli.report import REFUSED, TOO_LATE, USAGE, Ended
from appliance.errors import InvalidParameter
from tests.appliance.cli.fakes import FakeAppliances, Vch, deployed


@pytest.fixture
def appliances() -> FakeAppliances:
    values = {**deployed().values, "thumbprint": "AB:CD", "labels": "a=b"}
    return FakeAppliances(deployed(values=values))


def _served(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> None:
    """Whether the API comes up, boot by boot."""
    left = list(answers)

    async def wait_served(address: str, values: Mapping[str, str], folder: Path) -> None:
        if not left.pop(0):
            raise InvalidParameter("not served")

    async def boot(*arguments: object) -> bool:
        try:
            await wait_served("", {}, Path())
        except InvalidParameter:
            return False
        return True

    monkeypatch.setattr("appliance.cli.configure.boot", boot)


async def test_settings_change_with_a_boot(monkeypatch: pytest.MonkeyPatch, appliances: FakeAppliances) -> None:
    _served(monkeypatch, True)
    await Vch(monkeypatch, appliances)("configure", "prod", "--label", "x=y", "--label", "z=1", "--dns", "192.0.2.53")
    assert appliances.done == ["power off appliance", "set dns, labels"]
    values = appliances.found["prod"].values
    assert (values["labels"], values["dns"]) == ("x=y,z=1", "192.0.2.53")


async def test_the_old_settings_return(monkeypatch: pytest.MonkeyPatch, appliances: FakeAppliances) -> None:
    _served(monkeypatch, False, True)
    with pytest.raises(Ended, match="the old settings are back") as caught:
        await Vch(monkeypatch, appliances)("configure", "prod", "--label", "x=y")
    assert caught.value.status == TOO_LATE
    assert appliances.found["prod"].values["labels"] == "a=b"
    _served(monkeypatch, False, False)
    with pytest.raises(Ended, match="the API does not answer with the old settings either"):
        await Vch(monkeypatch, appliances)("configure", "prod", "--label", "x=y")


@pytest.mark.parametrize("words", [(), ("--label", "a=b"), ("--reset", "dns")])
async def test_nothing_to_change(
    monkeypatch: pytest.MonkeyPatch, appliances: FakeAppliances, words: tuple[str, ...]
) -> None:
    with pytest.raises(Ended, match="no option changes a setting") as caught:
        await Vch(monkeypatch, appliances)("configure", "prod", *words)
    assert caught.value.status == USAGE


async def test_malformed_settings_are_refused_by_option(
    monkeypatch: pytest.MonkeyPatch, appliances: FakeAppliances, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Ended, match="prod is unchanged") as caught:
        await Vch(monkeypatch, appliances)("configure", "prod", "--container-memory", "1", "--dns", "x")
    assert caught.value.status == REFUSED
    said = capsys.readouterr().err
    assert "  --container-memory: '1' is not between 64 and 1048576 MiB" in said
    assert "  --dns: 'x' does not appear to be" in said
    assert appliances.done == []


async def test_reset_and_dry_run(
    monkeypatch: pytest.MonkeyPatch, appliances: FakeAppliances, capsys: pytest.CaptureFixture[str]
) -> None:
    await Vch(monkeypatch, appliances)("configure", "prod", "--reset", "labels", "--dry-run")
    assert "  labels: (default)" in capsys.readouterr().err
    assert appliances.done == []
    with pytest.raises(InvalidParameter, match="--reset moon: no such property; the properties are hostname, "):
        await Vch(monkeypatch, appliances)("configure", "prod", "--reset", "moon")
