"""What libseccomp is asked for, by a fake of its C interface."""

import ctypes
from typing import Any

import pytest

from tether.launch import seccomp
from tether.launch.failure import LaunchFailure
from tether.launch.oci import Seccomp, SyscallArgument, SyscallRule

_NUMBERS = {b"read": 0, b"mkdir": 83, b"socket": 41}


class FakeLibrary:
    """Records calls as (name, arguments)."""

    def __init__(self, load_result: int = 0) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._load_result = load_result

    def seccomp_init(self, action: int) -> int:
        self.calls.append(("init", action))
        return 1

    def seccomp_attr_set(self, _: object, attribute: int, value: ctypes.c_uint32) -> None:
        self.calls.append(("attribute", (attribute, value.value)))

    def seccomp_arch_add(self, _: object, token: ctypes.c_uint32) -> None:
        self.calls.append(("architecture", token.value))

    def seccomp_syscall_resolve_name(self, name: bytes) -> int:
        return _NUMBERS.get(name, -1)

    def seccomp_rule_add_array(self, _: object, action: ctypes.c_uint32, number: int, count: int, array: Any) -> None:
        arguments = [(array[i].arg, array[i].op, array[i].a, array[i].b) for i in range(count)]
        self.calls.append(("rule", (action.value, number, arguments)))

    def seccomp_load(self, _: object) -> int:
        return self._load_result

    def seccomp_release(self, _: object) -> None:
        self.calls.append(("release", None))


def _install(monkeypatch: pytest.MonkeyPatch, profile: Seccomp, load_result: int = 0) -> list[tuple[str, Any]]:
    library = FakeLibrary(load_result)
    monkeypatch.setattr(seccomp, "load_library", lambda: library)
    seccomp.install_filter(profile)
    assert library.calls[-1] == ("release", None)
    return library.calls[:-1]


def test_a_profile_of_denials(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Seccomp(
        "SCMP_ACT_ALLOW",
        ("SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"),
        (
            SyscallRule("SCMP_ACT_ERRNO", names=("mkdir", "no_such_call")),
            SyscallRule("SCMP_ACT_ALLOW", names=("read",)),
            SyscallRule("SCMP_ACT_ERRNO", 38, (SyscallArgument(0, 40, op="SCMP_CMP_NE"),), ("socket",)),
        ),
    )
    assert _install(monkeypatch, profile) == [
        ("init", 0x7FFF0000),
        ("attribute", (3, 0)),
        ("architecture", 0xC000003E),
        ("architecture", 0x4000003E),
        ("rule", (0x50001, 83, [])),
        ("rule", (0x50026, 41, [(0, 1, 40, 0)])),
    ]


@pytest.mark.parametrize(
    ("action", "error", "value"),
    [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x80000000),
        ("SCMP_ACT_TRAP", None, 0x30000),
        ("SCMP_ACT_LOG", None, 0x7FFC0000),
        ("SCMP_ACT_ERRNO", None, 0x50001),
        ("SCMP_ACT_ERRNO", 0, 0x50000),
    ],
)
def test_default_actions(monkeypatch: pytest.MonkeyPatch, action: str, error: int | None, value: int) -> None:
    assert _install(monkeypatch, Seccomp(action, default_errno_ret=error))[0] == ("init", value)


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (Seccomp("SCMP_ACT_DANCE"), "seccomp action SCMP_ACT_DANCE"),
        (Seccomp("SCMP_ACT_ALLOW", syscalls=(SyscallRule("", names=("read",)),)), "seccomp action"),
        (
            Seccomp("SCMP_ACT_ALLOW", syscalls=(SyscallRule("SCMP_ACT_LOG", args=(SyscallArgument(0, 1),)),)),
            "seccomp operator",
        ),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, profile: Seccomp, text: str) -> None:
    with pytest.raises(LaunchFailure, match=text):
        _install(monkeypatch, profile)


def test_a_filter_that_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchFailure) as caught:
        _install(monkeypatch, Seccomp("SCMP_ACT_ALLOW"), load_result=-22)
    assert caught.value.errno == 22
