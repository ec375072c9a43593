"""Hypervisors are found by the name that `--hypervisor` gives."""

from dataclasses import replace

import pytest

from appliance.config import Config
from appliance.errors import InvalidParameter
from appliance.hosting import hosting_of, served_stores
from appliance.hosting.contract import Hosting
from appliance.hypervisors import HYPERVISORS


@pytest.mark.parametrize("name", sorted(HYPERVISORS))
def test_each_registered_hypervisor_implements_the_contract(name: str) -> None:
    hosting = hosting_of(replace(Config(), hypervisor=name))
    assert isinstance(hosting, Hosting)
    assert f"{type(hosting).__module__}:{type(hosting).__name__}" == HYPERVISORS[name]


def test_an_unknown_hypervisor_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(InvalidParameter, match=f"--hypervisor xen: choose one of {', '.join(sorted(HYPERVISORS))}"):
        hosting_of(replace(Config(), hypervisor="xen"))


def test_volume_stores() -> None:
    config = replace(Config(), volume_stores=("fast=datastore1", "shared=nfs://server/export"))
    assert list(served_stores(config, has_datastores=True)) == ["shared"]
    with pytest.raises(InvalidParameter, match="fast=datastore1: a datastore needs --hypervisor vsphere"):
        served_stores(config, has_datastores=False)
    config = replace(Config(), volume_stores=("a=nfs://server/x", "a=nfs://server/y"))
    with pytest.raises(InvalidParameter, match="the name a is used twice"):
        served_stores(config, has_datastores=True)
