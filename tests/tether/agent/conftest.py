"""Fixtures for tests of the table of processes."""

from pathlib import Path

import pytest

from tests.tether.agent.processes import FakeLauncher
from tether.agent import process_table
from tether.system import cgroup


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLauncher:
    made = FakeLauncher()
    monkeypatch.setattr(process_table, "launch", made)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    return made


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("tether.agent.process_table.os.kill", lambda pid, number: sent.append((pid, number)))
    return sent
