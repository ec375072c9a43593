"""A seccomp profile in Docker's JSON as OCI's linux.seccomp (moby profiles/seccomp). Pure."""

import json
from typing import Any

from appliance.container.capabilities import capabilities
from appliance.errors import InvalidParameter

# What the guest's kernel is at least, for rules that ask.
_KERNEL = (6, 1)
_ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


def _applies(conditions: dict[str, Any], granted: set[str], *, every: bool) -> bool:
    """Whether a rule's `includes` hold (all of them), or one of its `excludes` does."""
    found = []
    if conditions.get("arches"):
        found.append("amd64" in conditions["arches"])
    if conditions.get("caps"):
        found += [cap in granted for cap in conditions["caps"]]
    if conditions.get("minKernel"):
        major, _, minor = str(conditions["minKernel"]).partition(".")
        found.append((int(major), int(minor or 0)) <= _KERNEL)
    return all(found) if every else any(found)


def parse_profile(text: str, host: dict[str, Any]) -> dict[str, Any]:
    """InvalidParameter when it is none. `host` says which capabilities the container has."""
    try:
        raw = json.loads(text)
        granted = set(capabilities(host))
        rules = []
        for rule in raw.get("syscalls") or ():
            if not _applies(rule.get("includes") or {}, granted, every=True):
                continue
            if _applies(rule.get("excludes") or {}, granted, every=False):
                continue
            kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
            rules.append({**kept, "names": rule.get("names") or [rule["name"]]})
        architectures = [name for name in raw.get("architectures") or _ARCHITECTURES if name in _ARCHITECTURES]
        profile = {"defaultAction": raw["defaultAction"], "architectures": architectures, "syscalls": rules}
        if raw.get("defaultErrnoRet") is not None:
            profile["defaultErrnoRet"] = raw["defaultErrnoRet"]
        return profile
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
