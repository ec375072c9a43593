"""Hypervisors are found by the name that `--hypervisor` gives."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from appliance.config import Config
from appliance.engine.networking.networks import Networks
from appliance.errors import InvalidParameter
from appliance.hosting import hosting_of, served_stores
from appliance.hosting.contract import Hosting, usual_machine
from appliance.hypervisors import HYPERVISORS

CPUS = os.cpu_count() or 1


@pytest.mark.parametrize("name", sorted(HYPERVISORS))
def test_each_registered_hypervisor_implements_the_contract(name: str) -> None:
    hosting = hosting_of(replace(Config(), hypervisor=name))
    assert isinstance(hosting, Hosting)
    assert f"{type(hosting).__module__}:{type(hosting).__name__}" == HYPERVISORS[name]


def test_an_unknown_hypervisor_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(InvalidParameter, match=f"--hypervisor xen: choose one of {', '.join(sorted(HYPERVISORS))}"):
        hosting_of(replace(Config(), hypervisor="xen"))


@pytest.mark.parametrize(
    ("config", "host_mib", "size"),
    [
        (Config(), None, (2304, CPUS)),
        (Config(), 64 << 10, (2304, CPUS)),
        (Config(), 4096, (2048, CPUS)),
        (Config(), 400, (256, CPUS)),
        (Config(vm_memory=8192, vm_cpus=CPUS + 1), 4096, (8192, CPUS + 1)),
    ],
)
def test_the_size_of_a_machine(config: Config, host_mib: int | None, size: tuple[int, int]) -> None:
    """A default leaves half of the host's memory; what the operator says counts."""
    networks = cast(Networks, SimpleNamespace(allocator=SimpleNamespace(blank=SimpleNamespace(nic=None))))
    machine = usual_machine(config, networks, host_mib)
    assert (machine.memory_mib, machine.cpus) == size


def test_volume_stores() -> None:
    config = replace(Config(), volume_stores=("fast=datastore1", "shared=nfs://server/export"))
    assert list(served_stores(config, has_datastores=True)) == ["shared"]
    with pytest.raises(InvalidParameter, match="fast=datastore1: a datastore needs --hypervisor vsphere"):
        served_stores(config, has_datastores=False)
    config = replace(Config(), volume_stores=("a=nfs://server/x", "a=nfs://server/y"))
    with pytest.raises(InvalidParameter, match="the name a is used twice"):
        served_stores(config, has_datastores=True)
