"""The options that come from the table of settings."""

import shlex
from pathlib import Path

import pytest

from appliance.cli.options import handed_on, option_of, words_of
from appliance.config.table import OPTIONS, PROPERTY
from tests.appliance.cli.fakes import parse


def test_options_become_properties(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("PEM")
    words = ["--label", "a=b", "--label", "c=d", "--container-memory", "512", "--registry-ca", str(tmp_path / "ca")]
    networks = ["name=a,portgroup=A", "name=b,portgroup=B"]
    words += [word for network in networks for word in ("--container-network", network)]
    options = parse("create", "--ova", "x", *words, "--datacenter", "DC0", "--tenant", "t")
    # `create` resolves the datacenter and the tenant itself.
    assert handed_on(options) == {
        "labels": "a=b,c=d",
        "vm-memory": "512",
        "registry-ca": "PEM",
        "container-networks": ";".join(networks),
    }
    assert handed_on(parse("configure", "prod")) == {}


@pytest.mark.parametrize("old", ["--whitelist-registry", "--allow-registry"])
def test_names_of_vic_machine_are_taken_too(old: str) -> None:
    assert handed_on(parse("configure", "prod", old, "r.example")) == {"allow-registries": "r.example"}


def test_words_set_the_same_values() -> None:
    values = {"labels": "a=b,c=d", "volume-stores": "x=SSD", "vm-pool": "2", "dns": "192.0.2.1,192.0.2.2"}
    words = [word for key, value in values.items() for word in words_of(key, value)]
    assert handed_on(parse("configure", "prod", *words)) == values
    assert words_of("interfaces", "public,bridge") == []
    assert (option_of("vsphere-user"), option_of("interfaces")) == ("--ops-user", "")


def test_help_has_the_words_of_the_ovf_property(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    with pytest.raises(SystemExit):
        parse("create", "--help")
    text = capsys.readouterr().out
    for found in OPTIONS:
        # The target's options are about the command, too.
        if found.dest not in ("thumbprint", "vsphere_ca"):
            assert found.property.help in text, found.dest
            assert PROPERTY[found.property.key].description.startswith(found.property.help)
    assert all(shlex.quote(name) in text for found in OPTIONS for name in found.option.names)
