"""The JSON of a spec is to the byte what version 0.1 sent: guests of both versions read it."""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from appliance.container.config import ContainerConfig
from appliance.container.exec_config import ExecConfig
from appliance.container.go_json import convert, fold
from appliance.container.host_config import HostConfig
from appliance.container.spec import build_exec_spec, build_spec, resources_of
from tether.launch import oci
from tether.launch.spec import parse_spec_untrusted

# Made by version 0.1 from the settings beside each JSON.
RECORDED: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "data/specs_0_1.json").read_text())

S = TypeVar("S", bound=msgspec.Struct)


def _decode(given: dict[str, Any], struct: type[S]) -> S:
    fold(given, struct)
    return convert(given, struct)


@pytest.mark.parametrize("case", RECORDED["specs"], ids=lambda case: case["hostname"])
def test_spec_of_a_container(case: dict[str, Any]) -> None:
    made = build_spec(_decode(case["config"], ContainerConfig), _decode(case["host"], HostConfig), case["hostname"], [])
    assert made.decode() == case["json"]
    assert oci.encode(oci.decode_untrusted(oci.Spec, made)) == made
    assert parse_spec_untrusted(made).process.args


@pytest.mark.parametrize("case", RECORDED["execs"], ids=lambda case: case["request"]["Cmd"][0])
def test_spec_of_an_exec(case: dict[str, Any]) -> None:
    made = build_exec_spec(
        _decode(case["config"], ContainerConfig),
        _decode(case["host"], HostConfig),
        _decode(case["request"], ExecConfig),
    )
    assert made.decode() == case["json"]
    assert oci.encode(oci.decode_untrusted(oci.Spec, made)) == made


@pytest.mark.parametrize("case", RECORDED["resources"])
def test_resources_of_an_update(case: dict[str, Any]) -> None:
    resources = resources_of(_decode(case["host"], HostConfig))
    made = oci.encode(resources)
    assert made.decode() == case["json"]
    assert oci.decode_untrusted(oci.Resources, made) == resources
