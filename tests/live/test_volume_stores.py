"""Volume stores on NFS servers: volumes that containers share, wherever their VMs run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon
from tests.live.nfs import running_nfs

pytestmark = [
    pytest.mark.live,
    on_qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="an NFS server needs the rights of root"),
]

_STORE = ("-o", "VolumeStore=shared")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("stores")) as daemon:
        daemon.stop()
        # vchd starts although the NFS server is not there yet.
        daemon.flags = ["--volume-store", "shared=nfs://172.17.0.1/export?uid=0&gid=0"]
        daemon.start()
        yield daemon


def test_the_life_of_a_volume_in_a_store(daemon: Daemon, short_path: Path) -> None:
    refused = daemon.docker("volume", "create", *_STORE, "early").stderr
    assert "create early: NFS 172.17.0.1:/export" in refused
    assert "early" not in daemon.must("volume", "ls", "-q").split()
    with running_nfs(daemon, short_path) as export:
        daemon.must("volume", "create", *_STORE, "data")
        assert (export / "vch/data").is_dir()
        # A volume receives the image's files once, and two running containers share it.
        daemon.must("run", "-d", "--name", "first", "-v", "data:/bin", "busybox", "sleep", "1000")
        assert daemon.shell("-v", "data:/data", "echo shared > /data/file; ls /data | grep -c busybox").stdout == "1\n"
        assert daemon.must("exec", "first", "cat", "/bin/file") == "shared\n"
        assert (export / "vch/data/file").read_text() == "shared\n"
        assert "volume is in use" in daemon.docker("volume", "rm", "data").stderr
        daemon.must("rm", "-f", "first")
        # A vchd without our state finds the volume.
        daemon.stop()
        for file in (daemon.root / "data").glob("state.db*"):
            file.unlink()
        (export / "vch/.removed-old-1").mkdir()
        (export / "vch/.removed-old-1/file").write_text("half removed")
        daemon.start()
        daemon.load_busybox()
        assert daemon.must("volume", "ls", "-q").split() == ["data"]
        assert not (export / "vch/.removed-old-1").exists()
        assert daemon.shell("-v", "data:/data", "cat /data/file").stdout == "shared\n"
        # Removing the volume removes its files, and nothing else.
        outside = short_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        deep = export / "vch/data/a/b/c"
        deep.mkdir(parents=True)
        (deep / "link").symlink_to(outside)
        (deep / "name with \n and \\").write_text("odd")
        daemon.must("volume", "rm", "data")
        assert list((export / "vch").iterdir()) == []
        assert (outside / "kept").exists()
        daemon.must("volume", "create", *_STORE, "stays")
    # Without its server the volume is still listed.
    assert "NFS 172.17.0.1:/export" in daemon.docker("volume", "rm", "stays").stderr
    assert daemon.must("volume", "ls", "-q").split() == ["stays"]


def test_invalid_volume_options(daemon: Daemon, short_path: Path) -> None:
    refused = daemon.docker("volume", "create", "-o", "VolumeStore=nowhere", "x1").stderr
    assert 'no volume store named "nowhere"; choose one of shared' in refused
    refused = daemon.docker("volume", "create", *_STORE, "-o", "size=1g", "x1").stderr
    assert "volume store shared is on an NFS server and does not take the option size" in refused
    other = Daemon(short_path)
    for wrong, said in (
        ("x=nfs://server", "is not nfs://SERVER/PATH"),
        ("x=nfs://server/path?uid=root", "uid and gid are numbers"),
        ("x=nfs://server/path?vers=3", "is not nfs://SERVER/PATH"),
        ("x=somewhere", "a datastore needs --hypervisor vsphere"),
        ("=nfs://server/path", "NAME=DATASTORE or NAME=nfs://SERVER/PATH"),
    ):
        assert said in other.refusal("--volume-store", wrong)
    other.close()
