"""Seccomp filters by libseccomp, through its C interface (seccomp(3)); loaded only when a spec has a filter."""

import ctypes
import errno
import functools

from tether.launch.failure import Kind, LaunchFailure
from tether.launch.oci import Seccomp, SyscallArgument

_KILL_PROCESS, _KILL_THREAD, _TRAP, _ERRNO, _LOG, _ALLOW = 0x80000000, 0, 0x30000, 0x50000, 0x7FFC0000, 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_ALLOW": _ALLOW,
    "SCMP_ACT_LOG": _LOG,
    "SCMP_ACT_TRAP": _TRAP,
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
}
_OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
_ARCHITECTURES = {"SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X32": 0x4000003E}
_FLTATR_CTL_NNP = 3


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _action(name: str, error: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return _ERRNO | (errno.EPERM if error is None else error) & 0xFFFF
    if name not in _ACTIONS:
        raise LaunchFailure(Kind.SETUP, "seccomp action", name)
    return _ACTIONS[name]


def _comparison(argument: SyscallArgument) -> _Argument:
    if argument.op not in _OPERATORS:
        raise LaunchFailure(Kind.SETUP, "seccomp operator", argument.op)
    return _Argument(argument.index, _OPERATORS[argument.op], argument.value, argument.value_two or 0)


@functools.cache
def load_library() -> ctypes.CDLL:
    """libseccomp, to be called before the root changes: afterwards it cannot be found."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    return library


def install_filter(profile: Seccomp) -> None:
    """Apply linux.seccomp of an OCI spec to this process. System calls that this libseccomp does not know are ignored."""
    library = load_library()
    default = _action(profile.default_action, profile.default_errno_ret)
    context = ctypes.c_void_p(library.seccomp_init(default))
    # The spec decides about no_new_privs, not the library.
    library.seccomp_attr_set(context, _FLTATR_CTL_NNP, ctypes.c_uint32(0))
    for name in profile.architectures:
        if name in _ARCHITECTURES:
            library.seccomp_arch_add(context, ctypes.c_uint32(_ARCHITECTURES[name]))
    for rule in profile.syscalls:
        action = _action(rule.action, rule.errno_ret)
        if action == default:
            continue
        arguments = [_comparison(argument) for argument in rule.args or ()]
        array = (_Argument * len(arguments))(*arguments)
        for name in rule.names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != -1:
                library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(arguments), array)
    code = library.seccomp_load(context)
    library.seccomp_release(context)
    if code:
        raise LaunchFailure(Kind.SETUP, "seccomp filter", "", -code)
