"""Decisions that stand beside the fields of a Struct."""

from typing import Annotated

import msgspec

from appliance.container.config import ContainerConfig
from appliance.container.fields import (
    Decision,
    Field,
    Int64,
    Kind,
    Update,
    fields_of,
    go_names,
    honoured,
    refused,
    warned,
)
from appliance.container.host_config import HostConfig


class _Example(msgspec.Struct, rename=go_names(uts_mode="UTSMode")):
    uts_mode: Annotated[str, honoured("a note", update=Update.YES)] = ""
    size: Annotated[Int64, honoured(update=Update.LIMIT, shown=5)] = 0
    words: Annotated[list[str] | None, honoured(accepts_text=True)] = None
    ignored: Annotated[dict[str, str] | msgspec.UnsetType | None, warned("no use", "x")] = msgspec.UNSET
    dangerous: Annotated[bool, refused("no")] = False
    undecided: int = 0


def test_fields_in_their_order() -> None:
    assert list(fields_of(_Example).values()) == [
        Field("UTSMode", "uts_mode", Kind.TEXT, Decision.HONOURED, "a note", (), Update.YES, None),
        Field("Size", "size", Kind.NUMBER, Decision.HONOURED, "", (), Update.LIMIT, 5),
        Field("Words", "words", Kind.COMMAND, Decision.HONOURED, "", (), Update.NO, None),
        Field("Ignored", "ignored", Kind.TEXT_MAP, Decision.WARNED, "no use", ("x",), Update.NO, None),
        Field("Dangerous", "dangerous", Kind.FLAG, Decision.REFUSED, "no", (), Update.NO, None),
    ]


def test_every_field_of_a_create_request_has_a_decision() -> None:
    for struct in (ContainerConfig, HostConfig):
        assert list(fields_of(struct)) == list(struct.__struct_encode_fields__)


def test_docker_update_changes_limits_and_the_restart_policy() -> None:
    updates = {name: field.update for name, field in fields_of(HostConfig).items() if field.update is not Update.NO}
    limits = {
        "Memory",
        "MemorySwap",
        "MemoryReservation",
        "CpuShares",
        "NanoCpus",
        "CpuQuota",
        "CpuPeriod",
        "CpusetCpus",
        "CpusetMems",
        "PidsLimit",
    }
    assert updates == {**dict.fromkeys(limits, Update.LIMIT), "RestartPolicy": Update.YES}
