"""`vch debug`: the request to the appliance."""

from pathlib import Path

import pytest

from appliance.cli.report import REFUSED, Ended
from appliance.errors import InvalidParameter
from appliance.provision.access import HOST_KEY, REQUEST, parse
from tests.appliance.cli.fakes import FakeAppliances, Vch, deployed


async def test_an_appliance_that_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended, match="prod is poweredOff") as caught:
        await Vch(monkeypatch, FakeAppliances(deployed(power="poweredOff")))("debug", "prod")
    assert caught.value.status == REFUSED


@pytest.mark.parametrize("seconds", ["59", "86401"])
async def test_the_time_has_bounds(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    with pytest.raises(InvalidParameter, match="not between 60 and 86400 seconds"):
        await Vch(monkeypatch, FakeAppliances(deployed()))("debug", "prod", "--for", seconds)


async def test_close_is_a_request_of_0_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    appliances = FakeAppliances(deployed())
    await Vch(monkeypatch, appliances)("debug", "prod", "--close")
    assert parse(appliances.extra_values[REQUEST]).seconds == 0
    assert "SSH to prod is closed" in capsys.readouterr().out


async def test_a_given_key_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    appliances = FakeAppliances(deployed())
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA me\n")

    async def extra(reference: object) -> dict[str, str]:
        return {HOST_KEY: "ssh-ed25519 BBBB"}

    monkeypatch.setattr(appliances, "extra", extra)
    await Vch(monkeypatch, appliances)("debug", "prod", "--authorized-key", str(key), "--for", "60")
    request = parse(appliances.extra_values[REQUEST])
    assert (request.seconds, request.key, request.password_hash) == (60, "ssh-ed25519 AAAA me", "")
    said = capsys.readouterr().out
    assert "ssh root@192.0.2.10\n" in said
    assert "Its host key is ssh-ed25519 BBBB" in said
    key.write_text("nonsense")
    with pytest.raises(InvalidParameter, match="expected one line with a public key"):
        await Vch(monkeypatch, appliances)("debug", "prod", "--authorized-key", str(key))
