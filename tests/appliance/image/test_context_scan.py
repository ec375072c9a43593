"""What the reader of build contexts finds, and how it writes a context again."""

import bz2
import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import InvalidParameter, ProtocolError, VchError
from appliance.image import context_scan
from appliance.image.context_scan import Job, Scan, scan

_DOCKERFILE = "FROM busybox\nCOPY . /x\n"
Tar = Callable[[tarfile.TarFile], None]


def _file(name: str, content: str = "", **pax: str) -> Tar:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = len(content.encode()), dict(pax)
        archive.addfile(member, io.BytesIO(content.encode()))

    return add


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Tar:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)

    return add


def _tar(*members: Tar, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for add in members:
            add(archive)
    return out.getvalue()


def _scan(tmp_path: Path, data: bytes, dockerfile: str = "Dockerfile", target: str = "") -> Scan:
    (tmp_path / "in").write_bytes(data)
    return scan(Job(str(tmp_path / "in"), str(tmp_path / "out"), dockerfile, target))


def _names(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
def test_a_plain_context(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = _tar(_file("a", "x" * 3000), _file("./Dockerfile", _DOCKERFILE), _file("b"))
    found = _scan(tmp_path, compress(data))
    assert (found.dockerfile, found.rewritten, found.folder) == ("Dockerfile", False, "")
    assert [step.text for step in found.steps] == _DOCKERFILE.splitlines()


@pytest.mark.parametrize(
    ("given", "members", "path"),
    [
        ("Dockerfile", [_file("dockerfile", _DOCKERFILE)], "dockerfile"),
        ("a/b.x", [_file("a/b.x", _DOCKERFILE)], "a/b.x"),
        ("/a/../D", [_file("D", _DOCKERFILE)], "D"),
        ("Dockerfile", [_link("Dockerfile", "a/D"), _file("a/D", _DOCKERFILE)], "Dockerfile"),
        ("Dockerfile", [_file("D", _DOCKERFILE), _link("Dockerfile", "/D")], "Dockerfile"),
        ("Dockerfile", [_file("D", _DOCKERFILE), _link("Dockerfile", "D", tarfile.LNKTYPE)], "Dockerfile"),
        ("Dockerfile", [_file("Dockerfile"), _file("Dockerfile", _DOCKERFILE)], "Dockerfile"),
    ],
)
def test_where_the_dockerfile_is(tmp_path: Path, given: str, members: list[Tar], path: str) -> None:
    found = _scan(tmp_path, _tar(*members), given)
    assert (found.dockerfile, len(found.steps)) == (path, 2)


def test_a_dockerfile_below_a_link_is_left_to_buildkit(tmp_path: Path) -> None:
    assert _scan(tmp_path, _tar(_link("a", "b"), _file("b/D", _DOCKERFILE)), "a/D") == Scan("a/D")


@pytest.mark.parametrize(
    ("members", "given", "text"),
    [
        ([_file("a")], "Dockerfile", "^Cannot locate specified Dockerfile: Dockerfile$"),
        ([], "x/y", "^Cannot locate specified Dockerfile: x/y$"),
        ([_file("Dockerfile")], "Dockerfile", r"^the Dockerfile \(Dockerfile\) cannot be empty$"),
        ([_file("Dockerfile", "x")], "../Dockerfile", r"^forbidden path outside the build context: \.\./Dockerfile"),
        ([_file("../x", "x"), _file("Dockerfile", "x")], "Dockerfile", r"^\.\./x is outside of the build context$"),
        ([_file("a/../../x"), _file("Dockerfile", "x")], "Dockerfile", "is outside of the build context$"),
    ],
)
def test_refused(tmp_path: Path, members: list[Tar], given: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        _scan(tmp_path, _tar(*members), given)


@pytest.mark.parametrize(
    "data", [b"FROM busybox\n" * 100, _tar(_file("a", "x" * 2000))[:1024], gzip.compress(b"x" * 5000)[:20]]
)
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        _scan(tmp_path, data)


def test_a_syntax_error_is_left_to_buildkit(tmp_path: Path) -> None:
    assert _scan(tmp_path, _tar(_file("Dockerfile", "FROM a\nRUN <<X\n"))).steps == []


def test_an_ignore_file_that_ignores_itself_is_left_out(tmp_path: Path) -> None:
    members = [
        _file("Dockerfile", _DOCKERFILE),
        _file(".dockerignore", ".dockerignore\n*.log\n"),
        _file("a.log", "kept"),
    ]
    found = _scan(tmp_path, _tar(*members))
    assert (found.dockerfile, found.rewritten, found.folder) == ("Dockerfile", True, "")
    # What else the patterns match was the client's to leave out.
    assert _names(tmp_path / "out") == ["Dockerfile", "a.log"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_ignored_dockerfile_moves_out_of_the_context(
    tmp_path: Path, format: int, compress: Callable[[bytes], bytes]
) -> None:
    long = "d/" * 60 + "n" * 60 if format != tarfile.USTAR_FORMAT else "d"
    members = [
        _file("sub/.dockerfile.x", _DOCKERFILE),
        _file(".dockerignore", "**/.docker*\n"),
        _file("./a/", ""),
        _file(long, "content" * 1000),
        _link("soft", "/a/b"),
        _link("hard", long, tarfile.LNKTYPE),
    ]
    if format == tarfile.PAX_FORMAT:
        members.append(_file("attributes", "y", **{"SCHILY.xattr.user.a": "b"}))
    found = _scan(tmp_path, compress(_tar(*members, format=format)), "sub/.dockerfile.x")
    assert (found.dockerfile, found.rewritten, found.folder) == ("Dockerfile", True, "context")
    with tarfile.open(tmp_path / "out") as archive:
        names = ["Dockerfile", "context", "context/a", f"context/{long}", "context/soft", "context/hard"]
        assert archive.getnames()[: len(names)] == names
        dockerfile, content = archive.extractfile("Dockerfile"), archive.extractfile(f"context/{long}")
        assert dockerfile is not None
        assert dockerfile.read().decode() == _DOCKERFILE
        assert content is not None
        assert content.read() == b"content" * 1000
        assert archive.getmember("context/soft").linkname == "/a/b"
        assert archive.getmember("context/hard").linkname == f"context/{long}"
        if format == tarfile.PAX_FORMAT:
            assert archive.getmember("context/attributes").pax_headers["SCHILY.xattr.user.a"] == "b"


def test_sizes_of_all_forms_in_a_context_that_is_written_again(tmp_path: Path) -> None:
    """The size of an extended header with all of its 12 digits, and in base 256 as GNU tar writes it."""
    long = "n" * 150
    tar = bytearray(_tar(_file("Dockerfile", _DOCKERFILE), _file(".dockerignore", "*"), _file(long, "content")))
    at = tar.index(b"x", 4 * 512 + 156) - 156
    assert tar[at + 156 : at + 157] == b"x"
    size = int(tar[at + 124 : at + 135], 8)
    for field in (b"%012o" % size, b"\x80" + size.to_bytes(11, "big")):
        tar[at + 124 : at + 136] = field
        tar[at + 148 : at + 156] = b" " * 8
        tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])
        assert _scan(tmp_path, bytes(tar)).rewritten
        assert _names(tmp_path / "out") == ["Dockerfile", "context", f"context/{long}"]


def test_a_malformed_pattern_drops_nothing(tmp_path: Path) -> None:
    data = _tar(_file("Dockerfile", _DOCKERFILE), _file(".dockerignore", "*\n["))
    assert not _scan(tmp_path, data).rewritten


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_scan, "MAX_MEMBERS", 2)
    with pytest.raises(ProtocolError, match="more than 2 files"):
        _scan(tmp_path, _tar(_file("a"), _file("b"), _file("c")))
    monkeypatch.setattr(context_scan, "MAX_DECOMPRESSED", 1 << 20)
    with pytest.raises(ProtocolError, match="when decompressed"):
        _scan(tmp_path, gzip.compress(_tar(_file("a", "x" * (2 << 20)))))
    with pytest.raises(VchError, match="too large"):
        _scan(tmp_path, _tar(_file(".dockerignore", "x" * ((1 << 20) + 1))))


def test_a_context_that_is_written_again_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed context may be small, and the context that is written again is not compressed."""
    data = gzip.compress(
        _tar(_file("Dockerfile", _DOCKERFILE), _file(".dockerignore", "*"), _file("x", "x" * 2_000_000))
    )
    assert len(data) < 10_000
    (tmp_path / "in").write_bytes(data)
    job = Job(str(tmp_path / "in"), str(tmp_path / "out"), "Dockerfile", limit=1_000_000)
    with pytest.raises(InvalidParameter, match="larger than 1000000 bytes when decompressed"):
        scan(job)
    assert (tmp_path / "out").stat().st_size <= 1_000_000
    monkeypatch.setattr(context_scan, "SPARE", 1 << 62)
    with pytest.raises(InvalidParameter, match="no space left on device"):
        _scan(tmp_path, data)


def test_the_program(tmp_path: Path) -> None:
    for data, answer in ((_tar(_file("Dockerfile", "FROM a")), ""), (b"x" * 512, "Error processing tar file: ")):
        (tmp_path / "in").write_bytes(data)
        job = json.dumps(
            {"archive": str(tmp_path / "in"), "rewritten": str(tmp_path / "out"), "dockerfile": "Dockerfile"}
        )
        command = [sys.executable, "-m", "appliance.image.context_scan"]
        done = subprocess.run(command, input=job.encode(), capture_output=True, check=True)
        assert json.loads(done.stdout)["error"].startswith(answer)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_archive_may_end_without_the_padding_of_its_last_member(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    data = _tar(_file(".dockerignore", ".dockerignore"), _file("Dockerfile", _DOCKERFILE))
    found = _scan(tmp_path, compress(data[: 3 * 512 + len(_DOCKERFILE)]))
    assert len(found.steps) == 2
    assert _names(tmp_path / "out") == ["Dockerfile"]
    with pytest.raises(ProtocolError):
        _scan(tmp_path, compress(data[: 3 * 512 + 5]))
