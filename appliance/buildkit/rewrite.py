"""Messages between build clients and buildkitd that vchd changes: its image is pushed to the door, and its base images may come from there.

Pure: bytes in, bytes out. Fields that vchd does not know survive (protobuf keeps them).
"""

import enum
import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from appliance.buildkit.door_names import is_door, upload_name
from appliance.errors import InvalidParameter
from protos.buildkit.v1 import control_pb2, gateway_pb2, policy_pb2

# moby's exporter: the image goes into the daemon's own store.
_MOBY = "moby"
# Attributes of the exporter that vchd sets, or that mean something only in the store of a daemon.
_DROPPED = frozenset(
    (
        "name",
        "push",
        "push-by-digest",
        "store",
        "unpack",
        "dangling-name-prefix",
        "danglingPrefix",
        "dangling-name-empty-only",
        "name-canonical",
        "registry.insecure",
        "compression",
        "compression-level",
        "force-compression",
        "oci-mediatypes",
    )
)
_CGROUP_PARENT = "cgroup-parent"
# BuildKit's own cgroups: start script of the builder machine (buildkit/config.py).
_RUNS = "/run"
# With this label buildx takes the daemon for one whose store keeps indexes and attestations.
_SNAPSHOTTER = "org.mobyproject.buildkit.worker.snapshotter"
_GATEWAY = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"


class RuleAction(enum.Enum):
    """What a rule of a source policy does with a source that it matches."""

    ALLOW = policy_pb2.ALLOW
    DENY = policy_pb2.DENY
    CONVERT = policy_pb2.CONVERT


@dataclass(frozen=True, slots=True)
class SourceRule:
    """A rule of a source policy. `source` may contain `*`, unless the rule converts it to `target`."""

    action: RuleAction
    source: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class SolveFacts:
    """What a request of Control/Solve asks for, as far as vchd has to know it.

    `exports_image`: its image goes into the store, under `names`. `cache_imports` are the references of caches in registries; `registries`
    are all references at registries that BuildKit uses for the client: caches, and images that it pushes. `forces_pull`: local images
    do not count. `platforms` are those of the build, none for the builder's own.
    """

    reference: str
    exports_image: bool
    names: tuple[str, ...]
    cache_imports: tuple[str, ...]
    registries: tuple[str, ...]
    forces_pull: bool
    platforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SolvePlan:
    """How vchd changes a Solve. `door` is "vch.internal:PORT", `upload` the ID of the upload that takes the image.

    `rules` are appended to the client's. `caches` are references of caches, and what replaces them.
    """

    door: str
    upload: str
    rules: Sequence[SourceRule]
    caches: Mapping[str, str]


class SolveRequest:
    """A request of Control/Solve, which a client sent. `facts` is what it asks for."""

    def __init__(self, message: control_pb2.Solve, facts: SolveFacts) -> None:
        self._message = message
        self.facts = facts

    @classmethod
    def parse_untrusted(cls, raw: bytes) -> "SolveRequest":
        """InvalidParameter for a message that is malformed, or that uses a name which is reserved for the door."""
        message = control_pb2.Solve()
        _parse(message, raw, "solve request")
        _normalise_exporters(message)
        moby = [one for one in message.exporters if one.type == _MOBY]
        if len(moby) > 1:
            raise InvalidParameter("at most one output into the image store is possible in a build")
        names = _names(moby[0].attributes) if moby else ()
        exported = [name for one in message.exporters if one.type != _MOBY for name in _names(one.attributes)]
        pushed = [name for one in message.exporters if _pushes(one) for name in _names(one.attributes)]
        imports = (*_imported(message.cache), *_imported_by_frontend(message.frontend_attributes))
        exports = _exported_caches(message.cache)
        rules = message.source_policy.rules
        identifiers = [text for rule in rules for text in (rule.selector.identifier, rule.updates.identifier)]
        _check_reserved([*names, *exported, *imports, *exports, *identifiers])
        attributes = message.frontend_attributes
        platforms = tuple(text.strip() for text in attributes.get("platform", "").split(",") if text.strip())
        facts = SolveFacts(
            message.ref,
            bool(moby),
            names,
            imports,
            (*pushed, *imports, *exports),
            attributes.get("image-resolve-mode", "") == "pull",
            platforms,
        )
        return cls(message, facts)

    def rewritten(self, plan: SolvePlan) -> bytes:
        """The request for buildkitd. Call it once."""
        message = self._message
        for exporter in message.exporters:
            if exporter.type == _MOBY:
                _push_to_door(exporter, upload_name(plan.door, plan.upload))
                # BuildKit keeps no record of an internal build.
                message.internal = False
        _append(message.source_policy, plan.rules)
        for entry in message.cache.imports:
            _replace_reference(entry.attributes, plan.caches)
        if old := message.cache.import_references_deprecated:
            old[:] = [plan.caches.get(text, text) for text in old]
        _rewrite_attributes(message.frontend_attributes, plan.caches)
        return message.SerializeToString()


class FrontendRequest:
    """A request of LLBBridge/Solve. buildx repeats the frontend's attributes of Control/Solve in it, and BuildKit reads only these."""

    def __init__(self, message: gateway_pb2.FrontendSolve, cache_imports: tuple[str, ...]) -> None:
        self._message = message
        self.cache_imports = cache_imports

    @classmethod
    def parse_untrusted(cls, raw: bytes) -> "FrontendRequest":
        """InvalidParameter for a message that is malformed, or that uses a name which is reserved for the door."""
        message = gateway_pb2.FrontendSolve()
        _parse(message, raw, "solve request of the frontend")
        imports = (
            *_registry_references(message.cache_imports),
            *_imported_by_frontend(message.frontend_attributes),
        )
        _check_reserved(imports)
        return cls(message, imports)

    def rewritten(self, caches: Mapping[str, str]) -> bytes:
        """The request for buildkitd, with other references of caches. Call it once."""
        for entry in self._message.cache_imports:
            _replace_reference(entry.attributes, caches)
        _rewrite_attributes(self._message.frontend_attributes, caches)
        return self._message.SerializeToString()


def rewrite_answer(raw: bytes, image_id: str, names: Sequence[str]) -> bytes:
    """The answer of a Solve whose image is in the store: the ID of an image is the digest of its config, as dockerd answers."""
    message = control_pb2.SolveAnswer()
    _parse(message, raw, "answer of a solve")
    answer = message.exporter_answer
    answer["containerimage.digest"] = answer["containerimage.config.digest"] = image_id
    answer.pop("image.name", None)
    if names:
        answer["image.name"] = ",".join(names)
    return message.SerializeToString()


def rewrite_workers(raw: bytes, gateway: str) -> bytes:
    """The answer of ListWorkers as buildx expects it of dockerd with its own image store. `gateway`: the address for `host-gateway`."""
    message = control_pb2.WorkersAnswer()
    _parse(message, raw, "list of workers")
    for worker in message.workers:
        worker.labels.pop(_SNAPSHOTTER, None)
        if gateway:
            worker.labels[_GATEWAY] = gateway
    return message.SerializeToString()


def _parse(message: Message, raw: bytes, what: str) -> None:
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise InvalidParameter(f"malformed {what}: {error}") from error


def _check_reserved(references: Iterable[str]) -> None:
    for text in references:
        if is_door(text):
            raise InvalidParameter(f"invalid reference {text}: this name is reserved for the builder")


def _normalise_exporters(message: control_pb2.Solve) -> None:
    """Move the exporter of old clients into the list, as BuildKit does (translateLegacySolveRequest)."""
    if message.exporter_deprecated and not message.exporters:
        attributes = dict(message.exporter_attributes_deprecated)
        message.exporters.add(type=message.exporter_deprecated, attributes=attributes)
    message.exporter_deprecated = ""
    message.exporter_attributes_deprecated.clear()


def _names(attributes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in attributes.get("name", "").split(",") if name.strip())


def _pushes(exporter: control_pb2.Exporter) -> bool:
    if exporter.type == _MOBY or "push" not in exporter.attributes:
        return False
    # Go's strconv.ParseBool; "" is true. BuildKit refuses what is neither true nor false.
    return exporter.attributes["push"] not in ("0", "f", "F", "false", "False", "FALSE")


def _push_to_door(exporter: control_pb2.Exporter, name: str) -> None:
    exporter.type = "image"
    for key in _DROPPED.intersection(exporter.attributes):
        del exporter.attributes[key]
    exporter.attributes.update({"name": name, "push": "true", "oci-mediatypes": "false", "compression": "uncompressed"})


def _append(policy: policy_pb2.Policy, rules: Iterable[SourceRule]) -> None:
    for rule in rules:
        policy.version = 1
        exact = rule.action is RuleAction.CONVERT
        selector = policy_pb2.Selector(identifier=rule.source, match=policy_pb2.EXACT if exact else policy_pb2.WILDCARD)
        updates = policy_pb2.Update(identifier=rule.target) if exact else None
        policy.rules.add(action=rule.action.value, selector=selector, updates=updates)


# -- caches -----------------------------------------------------------------------------------------------------------


def _registry_references(entries: Iterable[control_pb2.CacheEntry]) -> list[str]:
    return [entry.attributes["ref"] for entry in entries if entry.type == "registry" and "ref" in entry.attributes]


def _imported(cache: control_pb2.Cache) -> list[str]:
    return [*_registry_references(cache.imports), *cache.import_references_deprecated]


def _exported_caches(cache: control_pb2.Cache) -> list[str]:
    old = cache.export_reference_deprecated
    return [*_registry_references(cache.exports), *([old] if old else [])]


def _replace_reference(attributes: MutableMapping[str, str], caches: Mapping[str, str]) -> None:
    if attributes.get("ref", "") in caches:
        attributes["ref"] = caches[attributes["ref"]]


def _cache_entries(text: str) -> list[tuple[str, dict[str, str]]]:
    """Type and attributes of each entry of the attribute `cache-imports`. Go ignores the case of keys.

    InvalidParameter in BuildKit's words for a text that is not such a list: BuildKit takes some that look otherwise to us, such as a value
    null, and none of them may hide a reference.
    """
    try:
        given = json.loads(text) if text else []
    except (ValueError, RecursionError):
        raise _malformed_imports(text) from None
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise _malformed_imports(text)
    entries = []
    for item in given:
        fields = {key.lower(): value for key, value in item.items()}
        kind, attributes = fields.get("type") or "", fields.get("attrs") or {}
        if not isinstance(kind, str) or not isinstance(attributes, dict):
            raise _malformed_imports(text)
        if not all(isinstance(value, str) for value in attributes.values()):
            raise _malformed_imports(text)
        entries.append((kind, attributes))
    return entries


def _malformed_imports(text: str) -> InvalidParameter:
    return InvalidParameter(f'failed to unmarshal cache-imports ("{text[:200]}")')


def _imported_by_frontend(attributes: Mapping[str, str]) -> list[str]:
    entries = _cache_entries(attributes.get("cache-imports", ""))
    found = [values["ref"] for kind, values in entries if kind == "registry" and "ref" in values]
    return found + [text for text in attributes.get("cache-from", "").split(",") if text]


def _rewrite_attributes(attributes: MutableMapping[str, str], caches: Mapping[str, str]) -> None:
    """Replace references of caches, and keep the cgroups of RUNs below BuildKit's own."""
    if entries := _cache_entries(attributes.get("cache-imports", "")):
        for _, values in entries:
            _replace_reference(values, caches)
        attributes["cache-imports"] = json.dumps([{"Type": kind, "Attrs": values} for kind, values in entries])
    if "cache-from" in attributes:
        references = attributes["cache-from"].split(",")
        attributes["cache-from"] = ",".join(caches.get(text, text) for text in references)
    if parent := attributes.get(_CGROUP_PARENT, ""):
        parts = [part for part in parent.split("/") if part not in ("", ".", "..")]
        attributes[_CGROUP_PARENT] = "/".join((_RUNS, *parts))
