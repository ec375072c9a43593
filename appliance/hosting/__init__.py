"""From configuration to a hypervisor in use. Only this package and the CLI import concrete drivers.

`contract` says what the composition root needs of a hypervisor. Each other module is one hypervisor, registered in `appliance.hypervisors`.
"""

import importlib

from appliance.config import Config, parse_volume_store
from appliance.errors import InvalidParameter
from appliance.hosting.contract import Hosting, Machines
from appliance.hypervisors import HYPERVISORS
from appliance.volume.nfs import NfsStore, is_nfs

__all__ = ["Hosting", "Machines", "hosting_of", "served_stores"]


def hosting_of(config: Config) -> Hosting:
    """The hypervisor that the configuration names. InvalidParameter when no such hypervisor is registered."""
    if config.hypervisor not in HYPERVISORS:
        raise InvalidParameter(f"--hypervisor {config.hypervisor}: choose one of {', '.join(sorted(HYPERVISORS))}")
    module, _, name = HYPERVISORS[config.hypervisor].partition(":")
    kind: type[Hosting] = getattr(importlib.import_module(module), name)
    return kind(config)


def served_stores(config: Config, *, has_datastores: bool) -> dict[str, NfsStore]:
    """The volume stores that are NFS servers, by name. InvalidParameter names a volume store that is not possible."""
    found: dict[str, NfsStore] = {}
    stores = [parse_volume_store(text) for text in config.volume_stores]
    for name, place in stores:
        if is_nfs(place):
            try:
                found[name] = NfsStore.parse(place, config.vsphere.tenant)
            except InvalidParameter as error:
                raise InvalidParameter(f"--volume-store {name}: {error}") from error
        elif not has_datastores:
            raise InvalidParameter(
                f"--volume-store {name}={place}: a datastore needs --hypervisor vsphere; nfs://SERVER/PATH works with any hypervisor"
            )
    names = [name for name, _ in stores]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidParameter(f"--volume-store: the name {twice} is used twice")
    return found
