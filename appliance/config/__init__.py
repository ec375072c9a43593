"""The settings of vchd and of the appliance, all from one table (README.md), and the parsers of their values."""

from appliance.config.builder import BuilderConfig
from appliance.config.container_network import LEVELS, ContainerNetwork, parse_container_network
from appliance.config.flags import parse_arguments
from appliance.config.model import Config, default_guest
from appliance.config.parsers import (
    MOST_VM_CPUS,
    Rule,
    bracketed,
    ends_of,
    host_and_port,
    parse_rule,
    parse_size,
    parse_ulimit,
    parse_volume_store,
)
from appliance.config.vsphere import VsphereConfig, required

__all__ = [
    "LEVELS",
    "MOST_VM_CPUS",
    "BuilderConfig",
    "Config",
    "ContainerNetwork",
    "Rule",
    "VsphereConfig",
    "bracketed",
    "default_guest",
    "ends_of",
    "host_and_port",
    "parse_arguments",
    "parse_container_network",
    "parse_rule",
    "parse_size",
    "parse_ulimit",
    "parse_volume_store",
    "required",
]
