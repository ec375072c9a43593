"""Which sources a build may use, and where it finds them: local images at the door, others at their registries.

The rules are a source policy of BuildKit (sourcepolicy/engine.go): the first CONVERT that matches replaces the source, and all rules are
asked again; of ALLOW and DENY, the last rule that matches decides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.buildkit.door_names import local_name
from appliance.buildkit.rewrite import RuleAction, SourceRule
from appliance.errors import Forbidden, InvalidParameter
from appliance.image.reference import Reference, parse_reference

# Local names in one policy. BuildKit compares each source of a build with each rule.
MOST_NAMES = 5000
_IMAGE = "docker-image://"
# One blob of a repository (raw LLB, bundles of git): BuildKit's source/types.
_IMAGE_BLOB = "docker-image+blob://"


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image in the store. `names` are full names with a tag, `digests` full names with a registry's digest.

    `manifest` is the digest of the manifest that the door serves for it; it is needed only if the image has `digests`.
    """

    names: Sequence[str]
    digests: Sequence[str] = ()
    manifest: str = ""


def local_rules(images: Iterable[LocalImage], door: str) -> list[SourceRule]:
    """Rules by which BuildKit takes these images from the door, "vch.internal:PORT". The first images count if there are too many."""
    rules: list[SourceRule] = []
    for image in images:
        for name in image.names:
            rules += _conversion(name, name, door)
        for name in image.digests:
            repository = name.partition("@")[0]
            target = f"{repository}@{image.manifest}"
            rules += _conversion(name, target, door)
            # A name with both a tag and a digest means the digest.
            for tagged in image.names:
                if tagged.rpartition(":")[0] == repository:
                    rules += _conversion(f"{tagged}@{name.partition('@')[2]}", target, door)
        if len(rules) >= MOST_NAMES:
            break
    return rules[:MOST_NAMES]


def _conversion(name: str, target: str, door: str) -> list[SourceRule]:
    """The rule that replaces an image's full name by `target` at the door; none when the door has no name for it."""
    registry, _, rest = target.partition("/")
    at_door = local_name(door, registry, rest)
    return [SourceRule(RuleAction.CONVERT, _IMAGE + name, _IMAGE + at_door)] if at_door is not None else []


def registry_rules(allowed: Sequence[str], door: str) -> list[SourceRule]:
    """Rules that deny images of registries that are not allowed; none if `allowed` is empty. They belong behind all other rules."""
    if not allowed:
        return []
    kinds = (_IMAGE, _IMAGE_BLOB)
    return [
        *(SourceRule(RuleAction.DENY, f"{kind}*") for kind in kinds),
        *(SourceRule(RuleAction.ALLOW, f"{kind}{host}/*") for kind in kinds for host in (*allowed, door)),
    ]


def check_registries(references: Iterable[str], allowed: Sequence[str]) -> None:
    """Check the registries of caches and of pushed images, which no source policy sees. Forbidden for a registry that is not allowed."""
    for text in references if allowed else ():
        if (host := parse_reference(text).domain) not in allowed:
            raise Forbidden(f"registry {host} is not allowed; the allowed registries are {', '.join(allowed)}")


def local_caches(references: Iterable[str], names: frozenset[str], door: str) -> dict[str, str]:
    """For each reference of a cache that is a local image: the reference, as the build names it, and its name at the door."""
    found: dict[str, str] = {}
    for text in references:
        try:
            reference = parse_reference(text).with_default_tag()
        except InvalidParameter:
            # BuildKit has its own text for it.
            continue
        full = _full_name(reference)
        if full in names and (at_door := local_name(door, *_split(full))) is not None:
            found[text] = at_door
    return found


def _full_name(reference: Reference) -> str:
    return f"{reference.name}@{reference.digest}" if reference.digest else f"{reference.name}:{reference.tag}"


def _split(name: str) -> tuple[str, str]:
    registry, _, rest = name.partition("/")
    return registry, rest
