"""Appliances of a vSphere that is not there, for the commands of `vch`."""

import argparse
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from appliance.cli.main import parser
from appliance.cli.report import Report
from appliance.errors import NotFound
from appliance.hypervisor.vsphere.appliances import Deployed
from appliance.hypervisor.vsphere.server import Server
from tests.appliance.provision.values import LEAST

SERVER = Server("vc.example", "admin", "s3cret", 443, "AB:CD")


def deployed(**changes: object) -> Deployed:
    """An appliance `prod` at 192.0.2.10, powered on, with the least of properties."""
    values = {**LEAST, "vsphere-password": "", "tenant": "prod", "public-address": "192.0.2.10/24"}
    one = Deployed(
        SimpleNamespace(_moId="vm-1"), "prod", "prod", "1.0", "poweredOn", "uuid", values, {}, "", "pool", "folder"
    )
    return replace(one, **changes)  # type: ignore[arg-type]


class FakeAppliances:
    """Remembers what a command does, in order, as texts."""

    def __init__(self, *found: Deployed, containers: tuple[tuple[str, bool], ...] = ()) -> None:
        self.found = {one.name: one for one in found}
        self.machines = [(f"ref-{name}", name, on) for name, on in containers]
        self.done: list[str] = []
        self.extra_values: dict[str, str] = {}
        self.kept: list[str] = []
        self.session = SimpleNamespace(server=SERVER, look=self._look)

    async def _look(self, what: str, reference: object, path: str) -> str:
        return "prod"

    async def all(self) -> list[Deployed]:
        return list(self.found.values())

    async def named(self, name: str) -> Deployed:
        for one in self.found.values():
            if name in (one.name, one.reference._moId):
                return one
        raise NotFound(f"no such appliance: {name}")

    async def containers(self, one: Deployed, *, waiting: bool = False) -> list[tuple[str, str, bool]]:
        return self.machines

    async def set_values(self, one: Deployed, values: Mapping[str, str]) -> None:
        self.found[one.name] = replace(one, values={**one.values, **values})
        self.done.append(f"set {', '.join(sorted(values))}")

    async def power_on(self, reference: object) -> None:
        self.done.append("power on")

    async def power_off(self, reference: object, grace: float = 0.0) -> None:
        self.done.append(f"power off {reference if isinstance(reference, str) else 'appliance'}")

    async def set_extra(self, reference: object, values: Mapping[str, str]) -> None:
        self.extra_values |= values

    async def extra(self, reference: object) -> dict[str, str]:
        return self.extra_values

    async def folders(self, one: Deployed) -> tuple[str, ...]:
        return ()

    async def keep_disks(self, reference: object, folders: tuple[str, ...]) -> None:
        self.done.append(f"keep disks of {reference}")

    async def destroy(self, reference: object) -> None:
        self.done.append(f"destroy {reference if isinstance(reference, str) else 'appliance'}")

    async def remove_files(self, one: Deployed, *, volumes: bool) -> list[str]:
        self.done.append(f"remove files{' and volumes' if volumes else ''}")
        return [] if volumes else self.kept

    async def remove_extension(self, tenant: str) -> None:
        self.done.append(f"remove extension {tenant}")

    async def remove_pool(self, pool: object) -> None:
        self.done.append(f"remove {pool}")

    async def remove_folder(self, folder: object) -> None:
        self.done.append(f"remove {folder}")

    async def history(self, one: Deployed) -> dict[str, str]:
        return {"events": "powered on\n"}


class Vch:
    """Runs commands of `vch` with fake appliances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, appliances: FakeAppliances) -> None:
        self.appliances = appliances
        self._monkeypatch = monkeypatch

    async def __call__(self, *words: str) -> None:
        """Run a command; what it raises is the caller's."""
        options = parse(*words)
        run: Callable[[argparse.Namespace, Report], object] = options.run
        module = getattr(run, "__module__", "")

        @asynccontextmanager
        async def opened(_: argparse.Namespace) -> AsyncIterator[FakeAppliances]:
            yield self.appliances

        self._monkeypatch.setattr(f"{module}.opened", opened)
        await options.run(options, Report(as_json=options.json))


def parse(*words: str) -> argparse.Namespace:
    """The options of a command line, with a target."""
    return parser().parse_args([*words, "--target", "vc.example", "--user", "admin"])
