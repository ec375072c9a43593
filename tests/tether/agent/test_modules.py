"""Kernel modules are loaded with their dependencies, once."""

from pathlib import Path

import pytest

from tether.agent import modules
from tether.rpc.status import Code, RpcError


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "list").write_text("/m/inet_diag.ko /m/tcp_diag.ko\n/m/nf-tables.ko\n")
    paths: list[str] = []
    monkeypatch.setattr(modules, "_LIST", tmp_path / "list")
    monkeypatch.setattr("tether.agent.modules.linux.load_module", paths.append)
    monkeypatch.setattr("tether.agent.modules.os.path.exists", lambda path: path == "/sys/module/already_here")
    return paths


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("tcp_diag", ["/m/inet_diag.ko", "/m/tcp_diag.ko"]),
        ("nf_tables", ["/m/nf-tables.ko"]),
        ("nf-tables", ["/m/nf-tables.ko"]),
        ("already-here", []),
    ],
)
def test_loading(loaded: list[str], name: str, paths: list[str]) -> None:
    modules.load(name)
    assert loaded == paths


def test_an_unknown_module(loaded: list[str]) -> None:
    with pytest.raises(RpcError) as caught:
        modules.load("inet")
    assert (caught.value.code, loaded) == (Code.NOT_FOUND, [])
