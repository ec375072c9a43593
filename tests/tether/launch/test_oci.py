"""The JSON of OCI specs: what is read, what is refused, and that both ways are inverse."""

import json
from typing import Any

import pytest

from tether.launch import oci

PROCESS: dict[str, Any] = {"args": ["true"], "cwd": "/"}


def decode(**members: Any) -> oci.Spec:
    return oci.decode_untrusted(oci.Spec, json.dumps({"ociVersion": "1.0.2", "process": PROCESS, **members}).encode())


def test_absent_members_have_their_defaults() -> None:
    spec = decode()
    assert spec.process == oci.Process(args=("true",))
    assert spec.linux is None
    assert spec.mounts is None


def test_null_is_absent_and_unknown_members_are_ignored() -> None:
    spec = decode(hostname=None, annotations={"a": "b"}, process={**PROCESS, "user": None, "apparmorProfile": "x"})
    assert spec == decode()


def test_names_are_in_camel_case() -> None:
    process = {**PROCESS, "noNewPrivileges": True, "oomScoreAdj": 5, "user": {"additionalGids": [1], "umask": 18}}
    assert decode(process=process).process == oci.Process(
        args=("true",), no_new_privileges=True, oom_score_adj=5, user=oci.User(additional_gids=(1,), umask=18)
    )


def test_encoding_leaves_out_only_members_that_are_none() -> None:
    assert json.loads(oci.encode(oci.Resources())) == {"memory": {}, "cpu": {}}
    limits = oci.Resources(oci.Memory(limit=0), oci.Cpu(cpus=""), oci.Pids(0))
    assert json.loads(oci.encode(limits)) == {"memory": {"limit": 0}, "cpu": {"cpus": ""}, "pids": {"limit": 0}}


def test_a_full_spec_survives_both_ways() -> None:
    rule = oci.SyscallRule(
        "SCMP_ACT_ERRNO", 38, (oci.SyscallArgument(0, 1 << 63, 3, "SCMP_CMP_MASKED_EQ"),), ("mkdir",)
    )
    spec = oci.Spec(
        oci.VERSION,
        oci.Process(
            terminal=True,
            user=oci.User(1, 2, "app:web", (3,), ("audio",), 0o27),
            args=("sh", "-c", "é\n"),
            capabilities=oci.Capabilities(ambient=("CAP_CHOWN",)),
            rlimits=(oci.Rlimit("RLIMIT_CORE", 0, -1),),
        ),
        oci.Root("/r", True),
        "box",
        "",
        (oci.Mount("/dev", "tmpfs", "tmpfs", ("nosuid",)),),
        oci.Linux(
            namespaces=(oci.Namespace("pid"),),
            sysctl={"net.core.somaxconn": "1"},
            seccomp=oci.Seccomp("SCMP_ACT_ALLOW", ("SCMP_ARCH_X86",), (rule,), 1),
            devices=(oci.Device("/dev/fuse", "c", 10, 229),),
        ),
    )
    assert oci.decode_untrusted(oci.Spec, oci.encode(spec)) == spec


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"process": None}, "a member of Spec is missing"),
        ({"process": []}, "process: not an object"),
        ({"process": {"args": "true"}}, "process: args: not a list"),
        ({"process": {"args": [1]}}, "process: args: not a string"),
        ({"process": {"args": ["a\0b"]}}, "process: args: a string with a NUL"),
        ({"process": {"terminal": 1}}, "process: terminal: not of type bool"),
        ({"process": {"oomScoreAdj": True}}, "process: oomScoreAdj: not of type int"),
        ({"process": {"user": {"uid": "0"}}}, "process: user: uid: not of type int"),
        ({"mounts": [{"type": "tmpfs"}]}, "mounts: a member of Mount is missing"),
        ({"linux": {"sysctl": {"a": 1}}}, "linux: sysctl: not a string"),
        ({"linux": {"resources": {"pids": {}}}}, "linux: resources: pids: a member of Pids is missing"),
    ],
)
def test_what_is_malformed_is_named(members: dict[str, Any], text: str) -> None:
    with pytest.raises(oci.SpecError) as caught:
        decode(**members)
    assert str(caught.value) == text


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"1", b"[]"])
def test_bytes_that_are_no_spec(data: bytes) -> None:
    with pytest.raises(oci.SpecError):
        oci.decode_untrusted(oci.Spec, data)
