"""`vch logs`: the archive, with and without an API that answers."""

import json
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.appliance.cli.fakes import FakeAppliances, Vch, deployed


def _read(path: Path) -> dict[str, str]:
    texts = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            texts[member.name.partition("/")[2]] = file.read().decode()
    return texts


async def test_an_appliance_that_is_off_leaves_the_history(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vch = Vch(monkeypatch, FakeAppliances(deployed(power="poweredOff")))
    await vch("logs", "prod", "--out", str(tmp_path / "x"))
    assert sorted(_read(tmp_path / "x")) == ["appliance.json", "vsphere/events.txt"]
    assert "the appliance is poweredOff" in capsys.readouterr().err


async def test_all_that_the_api_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inspected = {"Id": "ab" * 32, "Config": {"Tty": True, "Env": ["TOKEN=s3cret"]}}
    listed = [{"Id": "ab" * 32, "Names": ["/web"]}, {"Id": "cd" * 32, "Names": None}]

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "cd" * 32 in path:
            return httpx.Response(404, text="gone")
        if path == "/containers/json":
            return httpx.Response(200, json=listed)
        if path.endswith("/json"):
            return httpx.Response(200, json=inspected)
        return httpx.Response(200, text=f"text of {path}")

    @asynccontextmanager
    async def client_of(address: str, values: Mapping[str, str], folder: Path) -> AsyncIterator[httpx.AsyncClient]:
        assert address == "192.0.2.10"
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://x") as client:
            yield client

    monkeypatch.setattr("appliance.cli.logs.client_of", client_of)
    await Vch(monkeypatch, FakeAppliances(deployed()))("logs", "prod", "--out", str(tmp_path / "x"))
    texts = _read(tmp_path / "x")
    folder = f"containers/web-{'ab' * 6}"
    assert texts["vchd/log.txt"] == "text of /vch/debug/log"
    # With a terminal the output is not multiplexed.
    assert texts[f"{folder}/log.txt"] == f"text of /containers/{'ab' * 32}/logs"
    assert json.loads(texts[f"{folder}/inspect.json"])["Config"]["Env"] == ["TOKEN=(removed)"]
    assert not any("cdcd" in name for name in texts)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
