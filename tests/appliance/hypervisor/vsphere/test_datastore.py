"""Disks on a datastore are written once, completely, and found again. VMware's simulator stores datastores as folders."""

import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import trio

from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.collector import Collector
from appliance.hypervisor.vsphere.datastore import Datastore
from appliance.hypervisor.vsphere.inventory import Names, find
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.trust import OtherCertificate, PinnedContext
from appliance.hypervisor.vsphere.vmdk import descriptor
from tests.live.certificates import self_signed
from tests.live.vsphere.simulator import Simulator, running_vcsim, server_of


@asynccontextmanager
async def _datastore(simulator: Simulator) -> AsyncIterator[tuple[Datastore, Path]]:
    """A tenant's files, and the folder in which the simulator stores them."""
    async with Session.open(server_of(simulator)) as session, trio.open_nursery() as nursery:
        inventory = await find(session, Names("tenant", bridge="VM Network"))
        collector = Collector(session, inventory.folder, lambda key, seen: None)
        nursery.start_soon(collector.run)
        async with Datastore.open(
            session, inventory.location(inventory.datastore, inventory.datastore_name), "tenant", collector.carry_out
        ) as datastore:
            info = await session.look("datastore", inventory.datastore, "info")
            yield datastore, Path(info.url) / "vch-tenant"
        nursery.cancel_scope.cancel()


def _layer(folder: Path, name: str = "ab12") -> Path:
    path = folder / f"{name}.erofs"
    path.write_bytes(bytes(range(256)) * 32 * 512)
    return path


async def test_a_disk_is_written_once(simulator: Simulator, tmp_path: Path) -> None:
    layer = _layer(tmp_path)
    async with _datastore(simulator) as (datastore, folder):
        paths: list[str] = []

        async def want() -> None:
            paths.append(await datastore.disk_of(layer, "layers"))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(want)
        assert paths == ["[LocalDS_0] vch-tenant/layers/ab12.vmdk"] * 4
        flat = folder / "layers/ab12-flat.vmdk"
        assert flat.read_bytes() == layer.read_bytes()
        assert 'RW 8192 VMFS "ab12-flat.vmdk"' in (folder / "layers/ab12.vmdk").read_text()
        written = flat.stat().st_mtime_ns
    async with _datastore(simulator) as (datastore, folder):
        await datastore.disk_of(layer, "layers")
        assert flat.stat().st_mtime_ns == written
        await datastore.delete_disk(paths[0])
        assert await datastore.size("layers/ab12.vmdk") is None


async def test_an_incomplete_disk_is_written_again(simulator: Simulator, tmp_path: Path) -> None:
    layer = _layer(tmp_path, "cd34")
    async with _datastore(simulator) as (datastore, folder):
        await datastore.disk_of(layer, "layers")
        flat = folder / "layers/cd34-flat.vmdk"
        for spoil in (lambda: flat.write_bytes(b"half"), (folder / "layers/cd34.vmdk").unlink, flat.unlink):
            spoil()
            await datastore.disk_of(layer, "layers")
            assert flat.read_bytes() == layer.read_bytes()
            assert (folder / "layers/cd34.vmdk").exists()


async def test_a_datastore_that_does_not_take_it(simulator: Simulator, tmp_path: Path) -> None:
    async with _datastore(simulator) as (datastore, folder):
        folder.mkdir(exist_ok=True)
        (folder / "taken").write_text("a file where the folder should be")
        with pytest.raises(HypervisorError, match=r"cannot write \[LocalDS_0\] vch-tenant/taken|taken"):
            await datastore.disk_of(_layer(tmp_path), "taken")


async def test_a_tenant_is_one_appliances(simulator: Simulator) -> None:
    async with _datastore(simulator) as (datastore, folder):
        await datastore.claim("me")
        await datastore.claim("me")
        with pytest.raises(InvalidParameter, match=r"--tenant tenant: it is another appliance's.*vch-tenant/owner"):
            await datastore.claim("you")
        assert (folder / "owner").read_text() == "me"
        (folder / "owner").unlink()
        await datastore.claim("you")
        (folder / "owner").unlink()


def test_a_disk_is_whole_sectors() -> None:
    with pytest.raises(ValueError, match="not a whole number of sectors"):
        descriptor("x.vmdk", 1000, 1)


async def test_nothing_is_sent_to_a_server_with_another_certificate(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with plain:
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        heard.append(secured.recv(1000))
                except OSError:
                    heard.append(b"")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        async with httpx.AsyncClient(verify=PinnedContext.of("ab" * 32), trust_env=False) as client:
            with pytest.raises((OtherCertificate, httpx.ConnectError), match="as --thumbprint says"):
                await client.get(url, headers={"Cookie": "secret"})
        await trio.to_thread.run_sync(thread.join)
    assert heard == [b""]


async def test_a_datastore_whose_folders_are_objects(tmp_path: Path) -> None:
    """vSAN: a namespace manager creates top-level folders, and disk backings must name such a folder by its UUID."""
    layer = _layer(tmp_path)
    with running_vcsim(tmp_path / "vcsim", "-vsan") as simulator:
        async with _datastore(simulator) as (datastore, folder):
            assert not datastore.names_folders
            path = await datastore.disk_of(layer, "layers")
            root = path.partition("] ")[2].partition("/")[0]
            assert path == f"[LocalDS_0] {UUID(root)}/layers/ab12.vmdk"
            assert (folder.parent / root / "layers/ab12-flat.vmdk").read_bytes() == layer.read_bytes()
            await datastore.create_disk("disks", "one.vmdk", 1 << 20)
            assert set(await datastore.list_files("disks")) == {"one.vmdk", "one-flat.vmdk"}
        # Found again by its name.
        async with _datastore(simulator) as (datastore, folder):
            assert await datastore.disk_of(layer, "layers") == path
            assert await datastore.claim("us")
            await datastore.delete("disks")
            assert await datastore.list_files("disks") == {}
            await datastore.delete("")
        assert not [one for one in folder.parent.iterdir() if one.name == root]
