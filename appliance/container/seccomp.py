"""A seccomp profile in Docker's JSON as OCI's linux.seccomp (moby profiles/seccomp). Pure."""

import msgspec

from appliance.container.capabilities import capabilities
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter
from tether.launch.oci import Seccomp, SyscallArgument, SyscallRule

# The guest's kernel is at least this version, for rules that name a minimum.
_KERNEL = (6, 1)
_ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


class _Conditions(msgspec.Struct, rename="camel"):
    """When a rule applies: on which architectures, with which capabilities, from which kernel on ("4.8")."""

    arches: list[str] | None = None
    caps: list[str] | None = None
    min_kernel: str | None = None

    def hold(self, granted: set[str]) -> list[bool]:
        """Whether each condition that is given holds. ValueError when `min_kernel` is not a version."""
        found = []
        if self.arches:
            found.append("amd64" in self.arches)
        if self.caps:
            found += [cap in granted for cap in self.caps]
        if self.min_kernel:
            major, _, minor = self.min_kernel.partition(".")
            found.append((int(major), int(minor or 0)) <= _KERNEL)
        return found


class _Argument(msgspec.Struct, rename="camel"):
    index: int = 0
    value: int = 0
    value_two: int | None = None
    op: str = ""


class _Rule(msgspec.Struct, rename="camel"):
    """`name` stands for `names` in old profiles."""

    names: list[str] | None = None
    name: str | None = None
    action: str | None = None
    errno_ret: int | None = None
    args: list[_Argument] | None = None
    includes: _Conditions | None = None
    excludes: _Conditions | None = None

    def applies(self, granted: set[str]) -> bool:
        """Whether all of `includes` hold, and none of `excludes`."""
        includes, excludes = self.includes or _Conditions(), self.excludes or _Conditions()
        return all(includes.hold(granted)) and not any(excludes.hold(granted))


class _Profile(msgspec.Struct, rename="camel", kw_only=True):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    syscalls: list[_Rule] | None = None


def parse_profile(text: str, host_config: HostConfig) -> Seccomp:
    """Return the profile without the rules that do not apply; `host_config` decides which capabilities the container has.

    InvalidParameter when the text is not a profile.
    """
    granted = set(capabilities(host_config))
    try:
        profile = msgspec.json.decode(text, type=_Profile)
        rules = tuple(_rule(rule) for rule in profile.syscalls or () if rule.applies(granted))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    architectures = tuple(name for name in profile.architectures or _ARCHITECTURES if name in _ARCHITECTURES)
    return Seccomp(profile.default_action, architectures, rules, profile.default_errno_ret)


def _rule(rule: _Rule) -> SyscallRule:
    names = rule.names or ([rule.name] if rule.name else [])
    if not names:
        raise ValueError("a rule names no system call")
    return SyscallRule(
        action=rule.action or "",
        errno_ret=rule.errno_ret,
        args=None if rule.args is None else tuple(map(_argument, rule.args)),
        names=tuple(names),
    )


def _argument(argument: _Argument) -> SyscallArgument:
    return SyscallArgument(argument.index, argument.value, argument.value_two, argument.op)
