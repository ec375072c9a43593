"""The one table of settings: flags, keys of the configuration file, OVF properties and options of `vch create` all come from it."""

from dataclasses import dataclass

from appliance.config.appliance import APPLIANCE
from appliance.config.builder import BuilderConfig
from appliance.config.model import Config
from appliance.config.rows import GROUPS, PROPERTY_GROUPS, Option, Property, Setting, rows_of
from appliance.config.vsphere import VsphereConfig


def _in_groups(rows: tuple[Setting, ...], groups: tuple[str, ...] = GROUPS) -> tuple[Setting, ...]:
    return tuple(row for group in groups for row in rows if row.group == group)


VSPHERE_ROWS = rows_of(VsphereConfig)
BUILDER_ROWS = rows_of(BuilderConfig)
# The settings of vchd: each is a flag and a key of the configuration file.
DAEMON_SETTINGS = _in_groups((*VSPHERE_ROWS, *BUILDER_ROWS, *rows_of(Config)))
SETTINGS = _in_groups((*DAEMON_SETTINGS, *APPLIANCE))
# The OVF properties, in the order of the OVF descriptor.
PROPERTIES = tuple(row.property for row in _in_groups(SETTINGS, PROPERTY_GROUPS) if row.property is not None)
PROPERTY = {found.key: found for found in PROPERTIES}
SETTING_OF_PROPERTY = {row.property.key: row for row in SETTINGS if row.property is not None}


@dataclass(frozen=True, slots=True)
class PropertyOption:
    """An option of `vch create`, and the setting and OVF property that it is for. `dest` is its attribute of the parsed options."""

    setting: Setting
    property: Property
    option: Option
    dest: str


OPTIONS = tuple(
    PropertyOption(row, row.property, row.option, row.property.key.replace("-", "_"))
    for row in SETTINGS
    if row.property is not None and row.option is not None
)
