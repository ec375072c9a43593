"""The table of settings: every row is complete, names are unique, and the typed settings agree with the table."""

import re
from dataclasses import fields

import pytest

from appliance.config import BuilderConfig, Config, VsphereConfig
from appliance.config.appliance import APPLIANCE
from appliance.config.rows import BUILDER, GROUPS, PROPERTY_GROUPS, VSPHERE, Setting
from appliance.config.table import DAEMON_SETTINGS, OPTIONS, PROPERTIES, SETTING_OF_PROPERTY, SETTINGS


def test_each_field_is_a_row() -> None:
    own = {entry.name for entry in fields(Config)} - {"vsphere", "builder", "cache"}
    assert {row.name for row in DAEMON_SETTINGS} == own | {
        entry.name for nested in (VsphereConfig, BuilderConfig) for entry in fields(nested)
    }
    assert len(DAEMON_SETTINGS) + len(APPLIANCE) == len(SETTINGS)


def test_defaults_are_those_of_the_typed_settings() -> None:
    config = Config()
    for row in DAEMON_SETTINGS:
        holder = {VSPHERE: config.vsphere, BUILDER: config.builder}.get(row.group, config)
        # The paths of certificates and of the guest depend on the environment.
        if row.name not in ("guest", "tlscacert", "tlscert", "tlskey"):
            assert getattr(holder, row.name) == row.default, row.name


def test_names_are_unique() -> None:
    for names in (
        [row.name for row in DAEMON_SETTINGS],
        [row.key for row in DAEMON_SETTINGS],
        [flag for row in DAEMON_SETTINGS for flag in row.flags],
        [found.key for found in PROPERTIES],
        [name for found in OPTIONS for name in found.option.names],
        [found.dest for found in OPTIONS],
    ):
        assert sorted(names) == sorted(set(names))


def test_both_orders_have_all_groups() -> None:
    assert set(GROUPS) == set(PROPERTY_GROUPS) == {row.group for row in SETTINGS}


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_a_row_is_complete(row: Setting) -> None:
    texts = [row.help, *([row.property.help] if row.property is not None else [])]
    for text in texts:
        assert re.match(r"[A-Z]|vSphere|vCenter|password", text), text
        assert not text.endswith("."), text
    if row.property is not None:
        found = row.property
        assert SETTING_OF_PROPERTY[found.key] is row
        assert found.label
        assert found.default is not None
        assert found.description.endswith(".")
        assert found.category == row.group
        # A path comes as a text that the appliance writes to a file.
        assert row.kind != "path" or found.file
    assert row.option is None or row.property is not None


def test_a_default_passes_its_own_checks() -> None:
    for row in SETTINGS:
        found = row.property
        if found is not None and found.default and found.translated and row.key:
            if found.check is not None:
                found.check(found.default)
            value = row.value_of(found.default)
            if row.name == "docker_socket_default":
                # The appliance is stricter than vchd, which does as Docker does.
                assert (value, row.default) == ("scoped", "full")
            else:
                assert value == (row.default if row.default is not None else 0)
