"""NFS stores: addresses, and what is asked of libnfs. Real servers are in tests/live/test_volume_stores.py."""

import ctypes
import errno
from collections.abc import Callable
from typing import Any

import pytest

from appliance.errors import InvalidParameter, Unavailable
from appliance.volume import nfs
from appliance.volume.nfs import NfsStore, is_nfs


def test_addresses() -> None:
    assert NfsStore.parse("nfs://server/a%20b/c/?uid=5&gid=6", "tenant") == NfsStore("server", "/a b/c", 5, 6, "tenant")
    assert NfsStore.parse("nfs://[::1]/", "t") == NfsStore("::1", "", 0, 0, "t")
    assert NfsStore("server", "/path", 0, 0, "tenant").device("volume") == "server:/path/tenant/volume"
    assert is_nfs("nfs://x/y")
    assert not is_nfs("datastore1")


@pytest.mark.parametrize(
    "text",
    [
        "nfs:///path",
        "nfs://server",
        "http://server/path",
        "nfs://server:2049/path",
        "nfs://server/path?other=1",
        "nfs://server/path?uid=x",
        "nfs://server/path?uid=-1",
        "nfs://server/path?gid=99999999999",
    ],
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(InvalidParameter, match="nfs://"):
        NfsStore.parse(text, "tenant")


class _Library:
    """libnfs, with directories in memory: {path: is it a directory}."""

    def __init__(self, files: dict[str, bool]) -> None:
        self.files = files
        self.failing: dict[str, int] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        """nfs_set_uid and the like."""

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return -self.failing.get(name, 0)

        return call

    def nfs_init_context(self) -> int:
        return 1

    def nfs_get_error(self, context: object) -> bytes:
        return b"what libnfs says"

    def nfs_mkdir2(self, context: object, path: bytes, mode: int) -> int:
        name = path.decode()
        if name in self.files:
            return -errno.EEXIST
        self.files[name] = True
        return 0

    def nfs_rename(self, context: object, path: bytes, to: bytes) -> int:
        old, new = path.decode(), to.decode()
        if old not in self.files:
            return -errno.ENOENT
        self.files = {
            new + name[len(old) :] if name == old or name.startswith(old + "/") else name: kind
            for name, kind in self.files.items()
        }
        return 0

    def nfs_opendir(self, context: object, path: bytes, out: Any) -> int:
        name = path.decode()
        if name not in self.files:
            return -errno.ENOENT
        children = sorted(one for one in self.files if one.rpartition("/")[0] == name)
        self.listing = [(b".", 2), (b"..", 2), (b"../etc", 2)]
        self.listing += [(one.rpartition("/")[2].encode(), 2 if self.files[one] else 1) for one in children]
        return 0

    def nfs_readdir(self, context: object, folder: object) -> Any:
        if not self.listing:
            return None
        name, kind = self.listing.pop(0)
        entry = nfs._Entry(None, name, 0, kind)
        return ctypes.pointer(entry)

    def nfs_unlink(self, context: object, path: bytes) -> int:
        assert self.files.pop(path.decode()) is False
        return 0

    def nfs_rmdir(self, context: object, path: bytes) -> int:
        assert not any(one.startswith(path.decode() + "/") for one in self.files)
        assert self.files.pop(path.decode()) is True
        return 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> _Library:
    fake = _Library({"/tenant": True})
    monkeypatch.setattr(nfs, "_library", lambda: fake)
    return fake


_STORE = NfsStore("server", "/exported", 0, 0, "tenant")


async def test_volumes_are_made_listed_and_removed(library: _Library) -> None:
    await _STORE.create("data")
    await _STORE.create("data")
    library.files |= {"/tenant/data/folder": True, "/tenant/data/folder/file": False, "/tenant/data/file": False}
    library.files |= {"/tenant/.hidden": True, "/tenant/file": False}
    assert await _STORE.recover() == ["data"]
    await _STORE.remove("data")
    assert set(library.files) == {"/tenant", "/tenant/.hidden", "/tenant/file"}
    await _STORE.remove("data")
    assert library.calls.count("nfs_destroy_context") == 5


async def test_a_removal_that_was_interrupted_is_finished(library: _Library) -> None:
    library.files |= {"/tenant/.removed-data-1234": True, "/tenant/.removed-data-1234/file": False}
    assert await _STORE.recover() == []
    assert set(library.files) == {"/tenant"}


async def test_an_error_has_the_systems_words_and_libnfss(library: _Library) -> None:
    library.failing["nfs_mount"] = errno.EACCES
    with pytest.raises(Unavailable) as caught:
        await _STORE.create("data")
    assert str(caught.value) == "NFS server:/exported: permission denied: what libnfs says"
    assert library.calls[-1] == "nfs_destroy_context"


async def test_a_store_that_was_never_used_is_empty(library: _Library) -> None:
    library.files.clear()
    assert await _STORE.recover() == []
