"""The daemon as a whole: its folders, its pools, and what it leaves behind at its end."""

from pathlib import Path

import pytest
import trio

from appliance.composition import composed
from appliance.config import parse_arguments
from appliance.engine.machines.pool import Pool, PoolPlan
from appliance.errors import InvalidParameter
from appliance.hypervisor import MachineSpec
from appliance.hypervisor.fake import CloningDriver, FakeDriver
from tests.appliance.engine.harness import FakeHosting, Host
from tether.rpc.bridge import LoopThread


def _arguments(root: Path, *more: str) -> list[str]:
    root.joinpath("data").mkdir(exist_ok=True)
    flags = ["--data-root", str(root / "data"), "--exec-root", str(root / "exec"), "--bip", "10.11.0.1/24"]
    return [*flags, *more]


class _CloningHost(Host):
    def driver(self) -> FakeDriver:
        return CloningDriver(self.vms)


def _pools(driver: CloningDriver, usual: MachineSpec, loop: LoopThread, nursery: trio.Nursery) -> list[Pool]:
    return [Pool(PoolPlan(2, usual), driver, None, loop, nursery, lambda: True)]


async def test_the_folders_of_a_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    config = parse_arguments(_arguments(tmp_path))
    hosting = FakeHosting(config, Host(nursery))
    async with composed(config, hosting):
        identity = (tmp_path / "data" / "id").read_text()
        assert len(identity) == 32
        assert (tmp_path / "exec").is_dir()
        (tmp_path / "data" / "scratch" / "half-a-layer").write_text("x")
    async with composed(config, hosting):
        assert (tmp_path / "data" / "id").read_text() == identity
        assert list((tmp_path / "data" / "scratch").iterdir()) == []


async def test_machines_wait_while_the_daemon_runs(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = _CloningHost(nursery)
    config = parse_arguments(_arguments(tmp_path))
    with trio.fail_after(30):
        async with composed(config, FakeHosting(config, host, _pools)) as daemon:
            while (await daemon.services.status.status())["Machines waiting"] != "2":
                await trio.lowlevel.checkpoint()
            assert len(host.vms.vms) == 2
    assert host.vms.vms == {}


async def test_a_setting_that_does_not_work_ends_the_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    config = parse_arguments(_arguments(tmp_path, "--bip", "10.11.0.1/30"))
    with pytest.RaisesGroup(
        pytest.RaisesExc(InvalidParameter, match=r"^invalid --bip 10\.11\.0\.1/30: "), flatten_subgroups=True
    ):
        async with composed(config, FakeHosting(config, Host(nursery))):
            raise AssertionError("it does not run")
