"""A seccomp profile in Docker's JSON as OCI's linux.seccomp (moby profiles/seccomp). Pure."""

import json
from typing import Any

from appliance.container.capabilities import capabilities
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter
from tether.launch.oci import Seccomp, SyscallArgument, SyscallRule

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


def _rule(raw: dict[str, Any]) -> SyscallRule:
    args = raw.get("args")
    return SyscallRule(
        action=raw.get("action") or "",
        errno_ret=raw.get("errnoRet"),
        args=None if args is None else tuple(_argument(argument) for argument in args),
        names=tuple(raw.get("names") or [raw["name"]]),
    )


def _argument(raw: dict[str, Any]) -> SyscallArgument:
    return SyscallArgument(raw.get("index", 0), raw.get("value", 0), raw.get("valueTwo"), raw.get("op", ""))


def parse_profile(text: str, host_config: HostConfig) -> Seccomp:
    """Return the profile without the rules that do not apply; `host_config` decides which capabilities the container has.

    InvalidParameter when the text is not a profile.
    """
    try:
        raw = json.loads(text)
        granted = set(capabilities(host_config))
        rules = []
        for rule in raw.get("syscalls") or ():
            if not _applies(rule.get("includes") or {}, granted, every=True):
                continue
            if _applies(rule.get("excludes") or {}, granted, every=False):
                continue
            rules.append(_rule(rule))
        architectures = [name for name in raw.get("architectures") or _ARCHITECTURES if name in _ARCHITECTURES]
        return Seccomp(raw["defaultAction"], tuple(architectures), tuple(rules), raw.get("defaultErrnoRet"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
