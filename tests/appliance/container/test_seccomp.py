"""Seccomp profiles in Docker's JSON."""

import json
from typing import Any

import pytest

from appliance.container.host_config import HostConfig
from appliance.container.seccomp import parse_profile
from appliance.errors import InvalidParameter
from tether.launch.oci import Seccomp, SyscallArgument, SyscallRule

_ALLOW = "SCMP_ACT_ALLOW"


def _names(rules: list[dict[str, Any]], host_config: HostConfig) -> list[str]:
    profile = parse_profile(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}), host_config)
    return [name for rule in profile.syscalls for name in rule.names]


def test_a_whole_profile() -> None:
    rule = {
        "names": ["a", "b"],
        "action": _ALLOW,
        "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_EQ"}],
        "comment": "unknown members are ignored",
        "errnoRet": 4,
    }
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_ARM"],
        "syscalls": [rule],
    }
    assert parse_profile(json.dumps(profile), HostConfig()) == Seccomp(
        "SCMP_ACT_ERRNO",
        ("SCMP_ARCH_X86_64",),
        (SyscallRule(action=_ALLOW, errno_ret=4, args=(SyscallArgument(1, 2, 3, "SCMP_CMP_EQ"),), names=("a", "b")),),
        1,
    )


def test_rules_that_do_not_apply_are_left_out() -> None:
    rules: list[dict[str, Any]] = [
        {"names": ["always"], "action": _ALLOW},
        {"name": "old", "action": _ALLOW},
        {"names": ["arm"], "action": _ALLOW, "includes": {"arches": ["arm64"]}},
        {"names": ["admin"], "action": _ALLOW, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["without"], "action": _ALLOW, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["kernel"], "action": _ALLOW, "includes": {"minKernel": "4.8"}},
        {"names": ["future"], "action": _ALLOW, "includes": {"minKernel": "99"}},
    ]
    assert _names(rules, HostConfig()) == ["always", "old", "without", "kernel"]
    assert _names(rules, HostConfig(cap_add=["SYS_ADMIN"])) == ["always", "old", "admin", "kernel"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"defaultAction": 5}',
        '{"defaultAction": "a", "syscalls": [{}]}',
        '{"defaultAction": "a", "syscalls": [{"names": 5}]}',
        '{"defaultAction": "a", "syscalls": [{"names": ["a"], "includes": {"minKernel": "x"}}]}',
        "[" * 100_000,
    ],
)
def test_what_is_not_a_profile(text: str) -> None:
    with pytest.raises(InvalidParameter, match="Decoding seccomp profile failed"):
        parse_profile(text, HostConfig())
