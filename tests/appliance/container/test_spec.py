"""The JSON of a spec is to the byte what version 0.1 sent: guests of both versions read it."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.container.spec import build_exec_spec, build_spec, resources_of
from tether.launch import oci
from tether.launch.spec import parse_spec_untrusted

# Made by version 0.1 from the settings beside each JSON.
RECORDED: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "data/specs_0_1.json").read_text())


@pytest.mark.parametrize("case", RECORDED["specs"], ids=lambda case: case["hostname"])
def test_spec_of_a_container(case: dict[str, Any]) -> None:
    made = build_spec(case["config"], case["host"], case["hostname"], [])
    assert made.decode() == case["json"]
    assert oci.encode(oci.decode_untrusted(oci.Spec, made)) == made
    assert parse_spec_untrusted(made).process.args


@pytest.mark.parametrize("case", RECORDED["execs"], ids=lambda case: case["request"]["Cmd"][0])
def test_spec_of_an_exec(case: dict[str, Any]) -> None:
    made = build_exec_spec(case["config"], case["host"], case["request"])
    assert made.decode() == case["json"]
    assert oci.encode(oci.decode_untrusted(oci.Spec, made)) == made


@pytest.mark.parametrize("case", RECORDED["resources"])
def test_resources_of_an_update(case: dict[str, Any]) -> None:
    made = oci.encode(resources_of(case["host"]))
    assert made.decode() == case["json"]
    assert oci.decode_untrusted(oci.Resources, made) == resources_of(case["host"])
