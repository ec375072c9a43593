"""Rules for the sources of a build, and which registries it may use."""

import pytest

from appliance.buildkit.rewrite import RuleAction, SourceRule
from appliance.engine.builds.sources import (
    MOST_NAMES,
    LocalImage,
    check_registries,
    local_caches,
    local_rules,
    registry_rules,
)
from appliance.errors import Forbidden

DOOR = "vch.internal:4711"
D1, M1 = "sha256:" + "1" * 64, "sha256:" + "a" * 64


def _converted(rules: list[SourceRule]) -> dict[str, str]:
    assert all(rule.action is RuleAction.CONVERT for rule in rules)
    assert all(rule.source.startswith("docker-image://") for rule in rules)
    return {
        rule.source.removeprefix("docker-image://"): rule.target.removeprefix(f"docker-image://{DOOR}/")
        for rule in rules
    }


def test_each_name_of_a_local_image_leads_to_the_door() -> None:
    images = [
        LocalImage(["docker.io/library/x:1", "localhost:5000/y:2"]),
        LocalImage(["docker.io/library/z:1"], [f"docker.io/library/z@{D1}"], M1),
        LocalImage([], [f"docker.io/a/b@{D1}"], M1),
    ]
    assert _converted(local_rules(images, DOOR)) == {
        "docker.io/library/x:1": "docker.io/library/x:1",
        "localhost:5000/y:2": "localhost_5000/y:2",
        "docker.io/library/z:1": "docker.io/library/z:1",
        f"docker.io/library/z@{D1}": f"docker.io/library/z@{M1}",
        f"docker.io/library/z:1@{D1}": f"docker.io/library/z@{M1}",
        f"docker.io/a/b@{D1}": f"docker.io/a/b@{M1}",
    }


def test_a_name_that_the_door_cannot_have_gets_no_rule() -> None:
    assert local_rules([LocalImage(["Registry.example/x:1"])], DOOR) == []


def test_rules_are_bounded_and_the_first_images_count() -> None:
    rules = local_rules((LocalImage([f"docker.io/library/x:{n}"]) for n in range(10**9)), DOOR)
    assert len(rules) == MOST_NAMES
    assert rules[0].source == "docker-image://docker.io/library/x:0"


def test_other_registries_are_denied_behind_all_other_rules() -> None:
    assert registry_rules((), DOOR) == []
    assert registry_rules(("docker.io", "r.example:5000"), DOOR) == [
        SourceRule(RuleAction.DENY, "docker-image://*"),
        # A raw LLB may ask for one blob.
        SourceRule(RuleAction.DENY, "docker-image+blob://*"),
        *(
            SourceRule(RuleAction.ALLOW, f"{kind}://{host}/*")
            for kind in ("docker-image", "docker-image+blob")
            for host in ("docker.io", "r.example:5000", DOOR)
        ),
    ]


def test_caches_and_pushes_stay_within_the_allowed_registries() -> None:
    check_registries(["evil.example/x"], ())
    check_registries(["docker.io/x", "x", "r.example/x:1"], ("docker.io", "r.example"))
    with pytest.raises(
        Forbidden, match=r"registry evil\.example is not allowed; the allowed registries are docker\.io"
    ):
        check_registries(["x", "evil.example/x"], ("docker.io",))


def test_caches_that_are_local_images_come_from_the_door() -> None:
    names = frozenset(("docker.io/library/x:latest", "localhost:5000/y:2"))
    assert local_caches(["x", "x:2", "localhost:5000/y:2", "docker.io/library/x", "NO SUCH"], names, DOOR) == {
        "x": f"{DOOR}/docker.io/library/x:latest",
        "docker.io/library/x": f"{DOOR}/docker.io/library/x:latest",
        "localhost:5000/y:2": f"{DOOR}/localhost_5000/y:2",
    }
