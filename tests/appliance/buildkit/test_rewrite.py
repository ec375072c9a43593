"""What vchd changes in messages between build clients and buildkitd, and that it changes nothing else."""

import json
from typing import Any

import pytest

from appliance.buildkit.rewrite import (
    FrontendRequest,
    RuleAction,
    SolvePlan,
    SolveRequest,
    SourceRule,
    rewrite_answer,
    rewrite_workers,
)
from appliance.errors import InvalidParameter
from protos.buildkit.v1 import control_pb2, gateway_pb2, policy_pb2

DOOR = "vch.internal:4711"
PLAN = SolvePlan(DOOR, "0a1b", (), {})
PUSHED = {
    "name": f"{DOOR}/build/0a1b:latest",
    "push": "true",
    "oci-mediatypes": "false",
    "compression": "uncompressed",
}


def solve(**fields: Any) -> bytes:
    return control_pb2.Solve(ref="r", session="s", **fields).SerializeToString()


def rewritten(raw: bytes, plan: SolvePlan = PLAN) -> control_pb2.Solve:
    return control_pb2.Solve.FromString(SolveRequest.parse_untrusted(raw).rewritten(plan))


def exporter(kind: str, **attributes: str) -> control_pb2.Exporter:
    return control_pb2.Exporter(type=kind, attributes=attributes)


# -- exporters --------------------------------------------------------------------------------------------------------


def test_the_image_goes_to_the_door_and_keeps_what_concerns_its_content() -> None:
    attributes = {
        "name": "x:1,y",
        "push": "true",
        "compression": "zstd",
        "force-compression": "true",
        "dangling-name-prefix": "d",
        "annotation.a": "b",
        "rewrite-timestamp": "true",
        "source-date-epoch": "0",
    }
    raw = solve(exporters=[control_pb2.Exporter(type="moby", attributes=attributes)], internal=True)
    request = SolveRequest.parse_untrusted(raw)
    assert request.facts.exports_image
    assert request.facts.names == ("x:1", "y")
    assert request.facts.registries == ()
    changed = control_pb2.Solve.FromString(request.rewritten(PLAN))
    [one] = changed.exporters
    assert one.type == "image"
    kept = {"annotation.a": "b", "rewrite-timestamp": "true", "source-date-epoch": "0"}
    assert dict(one.attributes) == {**kept, **PUSHED}
    assert not changed.internal
    assert (changed.ref, changed.session) == ("r", "s")


def test_exporters_keep_their_places_since_sessions_count_them() -> None:
    changed = rewritten(solve(exporters=[exporter("local"), exporter("moby"), exporter("tar", dest="-")]))
    assert [one.type for one in changed.exporters] == ["local", "image", "tar"]
    assert dict(changed.exporters[2].attributes) == {"dest": "-"}


def test_the_exporter_of_an_old_client_counts_unless_there_is_a_list() -> None:
    old = solve(exporter_deprecated="moby", exporter_attributes_deprecated={"name": "x"})
    assert SolveRequest.parse_untrusted(old).facts.names == ("x",)
    changed = rewritten(old)
    assert [one.type for one in changed.exporters] == ["image"]
    assert changed.exporter_deprecated == ""
    assert not changed.exporter_attributes_deprecated
    both = solve(exporter_deprecated="moby", exporters=[exporter("local")])
    changed = rewritten(both)
    assert [one.type for one in changed.exporters] == ["local"]
    assert changed.exporter_deprecated == ""


def test_a_build_without_an_image_stays_as_it_is() -> None:
    raw = solve(frontend_attributes={"target": "x"}, internal=True)
    request = SolveRequest.parse_untrusted(raw)
    assert not request.facts.exports_image
    assert control_pb2.Solve.FromString(request.rewritten(PLAN)) == control_pb2.Solve.FromString(raw)


def test_two_images_for_the_store_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="at most one"):
        SolveRequest.parse_untrusted(solve(exporters=[exporter("moby"), exporter("moby")]))


def test_fields_that_vchd_does_not_know_survive_also_in_messages_within_the_message() -> None:
    # Field 2 (the LLB definition), 10, 16 of SolveRequest, and 3 of Selector (constraints), by number, type and length.
    unknown = b"\x12\x05\x0a\x03llb" + b"\x52\x04\x0a\x02in" + b"\x80\x01\x07"
    selector = policy_pb2.Selector(identifier="docker-image://x").SerializeToString() + b"\x1a\x03\x0a\x01k"
    rule = b"\x12" + bytes([len(selector)]) + selector
    policy = b"\x12" + bytes([len(rule)]) + rule
    source_policy = b"\x62" + bytes([len(policy)]) + policy
    raw = solve(exporters=[exporter("moby")]) + unknown + source_policy
    result = SolveRequest.parse_untrusted(raw).rewritten(PLAN)
    for piece in (b"\x12\x05\x0a\x03llb", b"\x52\x04\x0a\x02in", b"\x80\x01\x07", b"\x1a\x03\x0a\x01k"):
        assert piece in result


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff", b"\x62\x02\x12\x09", b"\x0a\x02\xff\xfe"])
def test_malformed_requests_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidParameter, match="malformed"):
        SolveRequest.parse_untrusted(raw)
    if raw != b"\x0a\x02\xff\xfe" and raw[:1] != b"\x62":
        with pytest.raises(InvalidParameter, match="malformed"):
            FrontendRequest.parse_untrusted(raw)


# -- policy, facts ----------------------------------------------------------------------------------------------------


def test_rules_come_behind_those_of_the_client() -> None:
    client = policy_pb2.Policy(version=1, rules=[policy_pb2.Rule(action=policy_pb2.DENY)])
    rules = [
        SourceRule(RuleAction.CONVERT, "docker-image://a", "docker-image://b"),
        SourceRule(RuleAction.DENY, "docker-image://*"),
        SourceRule(RuleAction.ALLOW, "docker-image://c/*"),
    ]
    policy = rewritten(solve(source_policy=client), SolvePlan(DOOR, "u", rules, {})).source_policy
    assert policy.version == 1
    assert [rule.action for rule in policy.rules] == [
        policy_pb2.DENY,
        policy_pb2.CONVERT,
        policy_pb2.DENY,
        policy_pb2.ALLOW,
    ]
    convert, deny = policy.rules[1:3]
    assert (convert.selector.identifier, convert.selector.match) == ("docker-image://a", policy_pb2.EXACT)
    assert convert.updates.identifier == "docker-image://b"
    assert (deny.selector.identifier, deny.selector.match) == ("docker-image://*", policy_pb2.WILDCARD)


def test_facts_tell_platforms_and_whether_local_images_count() -> None:
    attributes = {"platform": "linux/amd64, linux/arm64", "image-resolve-mode": "pull"}
    facts = SolveRequest.parse_untrusted(solve(frontend_attributes=attributes)).facts
    assert facts.platforms == ("linux/amd64", "linux/arm64")
    assert facts.forces_pull
    facts = SolveRequest.parse_untrusted(solve(frontend_attributes={"image-resolve-mode": "local"})).facts
    assert (facts.reference, facts.platforms, facts.forces_pull) == ("r", (), False)


def _with_rule(identifier: str, target: str) -> dict[str, Any]:
    rule = policy_pb2.Rule(
        selector=policy_pb2.Selector(identifier=identifier), updates=policy_pb2.Update(identifier=target)
    )
    return {"source_policy": policy_pb2.Policy(rules=[rule])}


@pytest.mark.parametrize(
    "fields",
    [
        {"exporters": [exporter("image", name=f"x,{DOOR}/build/0a1b:latest", push="true")]},
        {"exporters": [exporter("moby", name="VCH.internal/x")]},
        {"exporter_deprecated": "oci", "exporter_attributes_deprecated": {"name": "vch.internal:1/x"}},
        {"cache": control_pb2.Cache(import_references_deprecated=[f"{DOOR}/x"])},
        {"cache": control_pb2.Cache(export_reference_deprecated=f"{DOOR}/x")},
        {
            "cache": control_pb2.Cache(
                imports=[control_pb2.CacheEntry(type="registry", attributes={"ref": f"{DOOR}/x"})]
            )
        },
        {
            "cache": control_pb2.Cache(
                exports=[control_pb2.CacheEntry(type="registry", attributes={"ref": f"{DOOR}/x"})]
            )
        },
        {"frontend_attributes": {"cache-from": f"a,{DOOR}/x"}},
        {"frontend_attributes": {"cache-imports": json.dumps([{"type": "registry", "ATTRS": {"ref": f"{DOOR}/x"}}])}},
        _with_rule(f"docker-image://{DOOR}/x", ""),
        _with_rule("docker-image://x", f"docker-image://{DOOR}/x"),
    ],
)
def test_a_client_cannot_use_names_of_the_door(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="reserved for the builder"):
        SolveRequest.parse_untrusted(solve(**fields))


@pytest.mark.parametrize(
    ("push", "pushed"), [({}, False), ({"push": ""}, True), ({"push": "true"}, True), ({"push": "false"}, False)]
)
def test_facts_name_the_registries_that_buildkit_uses_for_the_client(push: dict[str, str], pushed: bool) -> None:
    imports = control_pb2.CacheEntry(type="registry", attributes={"ref": "r1.example/c"})
    exports = control_pb2.CacheEntry(type="registry", attributes={"ref": "r2.example/c"})
    inline = control_pb2.CacheEntry(type="inline")
    raw = solve(
        exporters=[control_pb2.Exporter(type="image", attributes={"name": "r3.example/x", **push})],
        cache=control_pb2.Cache(imports=[imports], exports=[exports, inline]),
        frontend_attributes={"cache-from": "r4.example/x"},
    )
    facts = SolveRequest.parse_untrusted(raw).facts
    assert set(facts.registries) == {"r1.example/c", "r2.example/c", "r4.example/x"} | (
        {"r3.example/x"} if pushed else set()
    )
    assert not facts.exports_image


# -- caches -----------------------------------------------------------------------------------------------------------

CACHES = {"x": f"{DOOR}/docker.io/library/x:latest"}


def test_caches_that_are_local_images_come_from_the_door() -> None:
    entries = [{"Type": "registry", "Attrs": {"ref": "x"}}, {"Type": "local", "Attrs": {"src": "x"}}]
    raw = solve(
        cache=control_pb2.Cache(
            imports=[
                control_pb2.CacheEntry(type="registry", attributes={"ref": "x"}),
                control_pb2.CacheEntry(type="registry", attributes={"ref": "y"}),
            ],
            import_references_deprecated=["y", "x"],
        ),
        frontend_attributes={"cache-from": "y,x", "cache-imports": json.dumps(entries)},
    )
    changed = rewritten(raw, SolvePlan(DOOR, "u", (), CACHES))
    assert [entry.attributes["ref"] for entry in changed.cache.imports] == [CACHES["x"], "y"]
    assert list(changed.cache.import_references_deprecated) == ["y", CACHES["x"]]
    assert changed.frontend_attributes["cache-from"] == f"y,{CACHES['x']}"
    entries[0]["Attrs"] = {"ref": CACHES["x"]}
    assert json.loads(changed.frontend_attributes["cache-imports"]) == entries


def test_the_frontend_gets_the_same_caches() -> None:
    attributes = {"cache-imports": json.dumps([{"Type": "registry", "Attrs": {"ref": "x"}}]), "target": "t"}
    entry = control_pb2.CacheEntry(type="registry", attributes={"ref": "x"})
    raw = gateway_pb2.FrontendSolve(
        frontend="dockerfile.v0", frontend_attributes=attributes, cache_imports=[entry]
    ).SerializeToString()
    # Field 1 is the LLB definition.
    request = FrontendRequest.parse_untrusted(raw + b"\x0a\x05\x0a\x03llb")
    assert request.cache_imports == ("x", "x")
    result = request.rewritten(CACHES)
    changed = gateway_pb2.FrontendSolve.FromString(result)
    assert b"\x0a\x05\x0a\x03llb" in result
    assert changed.cache_imports[0].attributes["ref"] == CACHES["x"]
    assert json.loads(changed.frontend_attributes["cache-imports"]) == [
        {"Type": "registry", "Attrs": {"ref": CACHES["x"]}}
    ]
    assert changed.frontend_attributes["target"] == "t"
    with pytest.raises(InvalidParameter, match="reserved"):
        FrontendRequest.parse_untrusted(result)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "{}",
        "null",
        "[1]",
        "[null]",
        '[{"Type": "registry", "Attrs": {"ref": 1}}]',
        # Go takes this for an empty value, and uses the reference.
        '[{"Type": "registry", "Attrs": {"mode": null, "ref": "evil.example/x"}}]',
        '[{"Type": 1, "Attrs": {"ref": "evil.example/x"}}]',
        "[" * 100_000,
    ],
)
def test_lists_of_caches_that_are_malformed_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="failed to unmarshal cache-imports"):
        SolveRequest.parse_untrusted(solve(frontend_attributes={"cache-imports": text}))


def test_an_empty_list_of_caches_stays() -> None:
    for text in ("", "[]"):
        changed = rewritten(solve(frontend_attributes={"cache-imports": text}), SolvePlan(DOOR, "u", (), CACHES))
        assert changed.frontend_attributes["cache-imports"] == text


@pytest.mark.parametrize(
    ("given", "used"),
    [("/docker/x", "/run/docker/x"), ("x", "/run/x"), ("../../init/./x", "/run/init/x"), ("/", "/run")],
)
def test_a_cgroup_of_the_client_is_below_that_of_runs(given: str, used: str) -> None:
    assert rewritten(solve(frontend_attributes={"cgroup-parent": given})).frontend_attributes["cgroup-parent"] == used


# -- answers ----------------------------------------------------------------------------------------------------------


def test_the_answer_has_the_image_id_and_the_names() -> None:
    raw = control_pb2.SolveAnswer(
        exporter_answer={
            "containerimage.digest": "sha256:manifest",
            "containerimage.config.digest": "sha256:config",
            "containerimage.descriptor": "d",
            "image.name": f"{DOOR}/build/0a1b:latest",
        }
    ).SerializeToString()
    answer = control_pb2.SolveAnswer.FromString(rewrite_answer(raw, "sha256:config", ["docker.io/library/x:1", "b"]))
    assert dict(answer.exporter_answer) == {
        "containerimage.digest": "sha256:config",
        "containerimage.config.digest": "sha256:config",
        "containerimage.descriptor": "d",
        "image.name": "docker.io/library/x:1,b",
    }
    nameless = control_pb2.SolveAnswer.FromString(rewrite_answer(raw, "sha256:config", []))
    assert "image.name" not in nameless.exporter_answer


def test_workers_are_those_of_a_daemon_with_images_of_its_own() -> None:
    labels = {"org.mobyproject.buildkit.worker.snapshotter": "overlayfs", "other": "x"}
    raw = control_pb2.WorkersAnswer(workers=[control_pb2.Worker(id="w", labels=labels)]).SerializeToString()
    [worker] = control_pb2.WorkersAnswer.FromString(rewrite_workers(raw, "10.0.0.1")).workers
    gateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
    assert dict(worker.labels) == {"other": "x", gateway: "10.0.0.1"}
    [worker] = control_pb2.WorkersAnswer.FromString(rewrite_workers(raw, "")).workers
    assert dict(worker.labels) == {"other": "x"}
