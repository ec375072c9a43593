"""Users and groups are looked up as Docker does it, in the container's own files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tether.launch import credentials
from tether.launch.credentials import look_up_user
from tether.launch.failure import Kind, LaunchFailure
from tether.launch.oci import User


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nmalformed\nbad:x:nine:9::/:\napp:x:1000:50::/home/app:/bin/sh\ntoor:x:0:9::/other:\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:root\nstaff:x:50:\naudio:x:29:other,app\nvideo:x:44:app,root\n")
    entries = credentials._entries

    def inside(path: str, fields: int) -> Iterator[list[str]]:
        return entries(f"{tmp_path}{path}", fields)

    monkeypatch.setattr(credentials, "_entries", inside)


@pytest.mark.parametrize(
    ("user", "found"),
    [
        (User(), (0, 0, [], "/root")),
        (User(uid=1234, gid=56), (1234, 56, [], "/")),
        (User(uid=1234, gid=56, additional_gids=(7, 8)), (1234, 56, [7, 8], "/")),
        (User(username="app"), (1000, 50, [50, 29, 44], "/home/app")),
        (User(username="1000"), (1000, 50, [50, 29, 44], "/home/app")),
        # Docker names the primary group again where /etc/group lists the user.
        (User(username="0"), (0, 0, [0, 0, 44], "/root")),
        (User(username="root", additional_gids=(7,)), (0, 0, [0, 0, 44, 7], "/root")),
        (User(username=":staff"), (0, 50, [50], "/root")),
        (User(username="app:audio"), (1000, 29, [29], "/home/app")),
        (User(username="app:29"), (1000, 29, [29], "/home/app")),
        (User(username="app:77"), (1000, 77, [77], "/home/app")),
        (User(username="4711"), (4711, 0, [0], "/")),
        (User(username="4711:4712"), (4711, 4712, [4712], "/")),
        (User(additional_groups=("video",)), (0, 0, [44], "/root")),
    ],
)
def test_look_up(user: User, found: tuple[int, int, list[int], str]) -> None:
    assert look_up_user(user) == found


@pytest.mark.parametrize(
    ("user", "kind", "subject"),
    [
        (User(username="nobody"), Kind.NO_SUCH_USER, "nobody"),
        (User(username="bad"), Kind.NO_SUCH_USER, "bad"),
        (User(username="app:nogroup"), Kind.NO_SUCH_GROUP, "nogroup"),
        (User(additional_groups=("nogroup",)), Kind.NO_SUCH_GROUP, "nogroup"),
        (User(username="4294967295"), Kind.NO_SUCH_USER, "4294967295"),
    ],
)
def test_refusals(user: User, kind: Kind, subject: str) -> None:
    with pytest.raises(LaunchFailure) as caught:
        look_up_user(user)
    assert (caught.value.kind, caught.value.subject) == (kind, subject)


def test_an_unknown_capability_is_named() -> None:
    assert credentials._mask(("CAP_CHOWN", "CAP_FOWNER")) == 0b1001
    with pytest.raises(LaunchFailure, match="CAP_FLY"):
        credentials._mask(("CAP_FLY",))
