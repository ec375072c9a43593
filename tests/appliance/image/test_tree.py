"""The tree of a layer, as a real dockerd and containerd unpack the same archives, and archives that grow without bound."""

import io
import stat
import tarfile
import tracemalloc

import pytest

from appliance.errors import ProtocolError
from appliance.image import erofs, tarstream, tree
from appliance.image.erofs_format import Node
from appliance.image.tree import Tree
from tests.archives import Tar

_DIR, _LINK, _HARD, _FILE = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE
_KINDS = {stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFREG: "-", stat.S_IFCHR: "w"}


def _tree(*entries: tuple[bytes, str] | tuple[bytes, str, str]) -> str:
    """The names of the tree. `d`: a directory, `o`: an opaque directory, `l`: a symbolic link, `-`: a file, `w`: a whiteout."""
    tar = Tar(tarfile.PAX_FORMAT)
    for kind, name, *link in entries:
        tar.add(name, kind=kind, linkname=link[0] if link else "")
    source = io.BytesIO(tar.bytes())
    writer = erofs._Writer(source.read, io.BytesIO(), lambda _: None, erofs.Limits())
    for entry in tarstream.entries(source.read):
        writer.add_untrusted(entry)
    found: list[str] = []

    def show(node: Node, path: str) -> None:
        for name, child in sorted((node.children or {}).items()):
            kind = _KINDS[stat.S_IFMT(child.mode)]
            kind = "o" if b"trusted.overlay.opaque" in child.xattrs else kind
            found.append(f"{kind}{path}{name.decode()}")
            show(child, f"{path}{name.decode()}/")

    show(writer._tree.root, "")
    return " ".join(found)


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        # A name through a link of the same layer: the link stays.
        (
            [(_DIR, "usr/"), (_DIR, "usr/bin/"), (_LINK, "bin", "usr/bin"), (_FILE, "bin/tool")],
            "lbin dusr dusr/bin -usr/bin/tool",
        ),
        ([(_DIR, "usr/"), (_LINK, "bin", "/usr"), (_FILE, "bin/tool")], "lbin dusr -usr/tool"),
        (
            [(_DIR, "usr/"), (_DIR, "a/"), (_LINK, "a/bin", "../../../usr"), (_FILE, "a/bin/tool")],
            "da la/bin dusr -usr/tool",
        ),
        (
            [(_DIR, "x/"), (_LINK, "l", "m"), (_LINK, "m", "./x//"), (_DIR, "l/d/"), (_FILE, "l/d/f")],
            "ll lm dx dx/d -x/d/f",
        ),
        ([(_DIR, "x/y/"), (_LINK, "l", "x/y"), (_LINK, "x/y/up", ".."), (_FILE, "l/up/f")], "ll dx -x/f dx/y lx/y/up"),
        ([(_DIR, "x/y/"), (_LINK, "l", "x/y"), (_FILE, "l/../f")], "-f ll dx dx/y"),
        # containerd creates what the link points to; dockerd 20.10 refuses the archive.
        ([(_LINK, "bin", "usr/bin"), (_FILE, "bin/tool")], "lbin dusr dusr/bin -usr/bin/tool"),
        ([(_LINK, "s", "low"), (_FILE, "s/.wh.f")], "dlow wlow/f ls"),
        ([(_DIR, "low/"), (_LINK, "s", "low"), (_FILE, "s/.wh..wh..opq")], "olow ls"),
        # A link in the last component is replaced, and what was behind it is not touched.
        (
            [(_DIR, "usr/"), (_FILE, "usr/f"), (_LINK, "bin", "usr"), (_DIR, "bin/"), (_FILE, "bin/g")],
            "dbin -bin/g dusr -usr/f",
        ),
        ([(_DIR, "a/"), (_FILE, "a/b"), (_FILE, "a")], "-a"),
        ([(_LINK, "l", "x"), (_FILE, "l/f"), (_LINK, "l", "y"), (_FILE, "l/f")], "ll dx -x/f dy -y/f"),
        # Hard links.
        (
            [(_DIR, "real/"), (_FILE, "real/old"), (_LINK, "sl", "real"), (_HARD, "hl", "sl/old"), (_HARD, "hs", "sl")],
            "-hl lhs dreal -real/old lsl",
        ),
        ([(_FILE, "a"), (_HARD, "b", "/a"), (_HARD, "c", "./a")], "-a -b -c"),
        ([(_DIR, "d/"), (_FILE, "a"), (_HARD, "d/b", "d/../a")], "-a dd -d/b"),
        # Whiteouts hide lower layers only.
        ([(_FILE, "a/.wh.f"), (_FILE, "a/f")], "da -a/f"),
        ([(_FILE, "a/f"), (_FILE, "a/.wh.f")], "da -a/f"),
        ([(_FILE, ".wh.a"), (_DIR, "a/"), (_FILE, "a/g")], "oa -a/g"),
        ([(_DIR, "a/"), (_FILE, "a/g"), (_FILE, ".wh.a")], "oa -a/g"),
        ([(_FILE, ".wh.a"), (_FILE, "a/g")], "oa -a/g"),
        # Names that look like whiteouts.
        ([(_FILE, "a/.wh....")], "da wa/..."),
        ([(_FILE, "a/.wh..x")], "da wa/.x"),
        ([(_FILE, "a/.wh..wh.x"), (_FILE, ".wh..wh.aufs")], "da"),
        (
            [(_DIR, ".wh..wh.plnk/"), (_FILE, ".wh..wh.plnk/1"), (_HARD, "n", ".wh..wh.plnk/1")],
            "d.wh..wh.plnk -.wh..wh.plnk/1 -n",
        ),
        ([(_DIR, ".wh.x/"), (_FILE, ".wh.x/f")], "d.wh.x -.wh.x/f wx"),
        ([(_DIR, "a/"), (_DIR, "a/.wh..wh..opq/")], "oa"),
        ([(_FILE, ".")], ""),
    ],
)
def test_names_resolve_as_in_a_chroot(entries: list[tuple[bytes, str]], shown: str) -> None:
    assert _tree(*entries) == shown


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([(_LINK, "a", "b"), (_LINK, "b", "a"), (_FILE, "a/f")], "open /a/f: too many levels of symbolic links"),
        ([(_LINK, "a", "a"), (_FILE, "a/f")], "open /a/f: too many levels of symbolic links"),
        ([(_FILE, "a"), (_FILE, "a/f")], "open /a/f: not a directory"),
        ([(_FILE, "x"), (_LINK, "a", "x"), (_FILE, "a/f")], "open /a/f: not a directory"),
        ([(_LINK, "a", "n" * 256), (_FILE, "a/f")], "file name too long"),
        ([(_HARD, "b", "a")], "link /a /b: no such file or directory"),
        ([(_HARD, "b", "a/c")], "link /a/c /b: no such file or directory"),
        ([(_LINK, "s", "gone"), (_HARD, "b", "s/c")], "link /s/c /b: no such file or directory"),
        ([(_FILE, "f"), (_HARD, "b", "f/c")], "link /f/c /b: not a directory"),
        ([(_DIR, "d/"), (_HARD, "b", "d")], "link /d /b: operation not permitted"),
        ([(_DIR, "d/"), (_HARD, "b", "/")], "link // /b: operation not permitted"),
        ([(_FILE, "a"), (_HARD, "a", "a")], "link /a /a: no such file or directory"),
        ([(_FILE, ".wh.a"), (_HARD, "b", "a")], "link /a /b: no such file or directory"),
        ([(_FILE, "low/.wh.")], "invalid whiteout name"),
        ([(_FILE, "low/.wh..")], "invalid whiteout name"),
        ([(_FILE, "low/.wh...")], "invalid whiteout name"),
        ([(_FILE, ".wh...")], "invalid whiteout name"),
    ],
)
def test_what_docker_refuses(entries: list[tuple[bytes, str]], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        _tree(*entries)


def test_links_that_multiply_a_name_are_bounded() -> None:
    """Each link names the next link a hundred times: 40 of them would make 100^40 components."""
    found = Tree()
    for number in range(40):
        parent, name = found.parent_of(b"l%d" % number) or (found.root, b"")
        target = b"/".join([b"l%d/.." % (number + 1)] * 100)
        found.put(parent, name, Node(stat.S_IFLNK, tail=target))
    with pytest.raises(ProtocolError, match=r"too long|too many levels"):
        found.parent_of(b"l0/f")


def test_depth_is_bounded_also_through_links() -> None:
    found = Tree()
    deep = b"/".join([b"d"] * 1500)
    found.parent_of(deep + b"/f")
    found.put(found.root, b"s", Node(stat.S_IFLNK, tail=deep))
    with pytest.raises(ProtocolError, match="deeper than 2048"):
        found.parent_of(b"s/" + deep + b"/f")


def test_implied_directories_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_NODES", 1000)
    with pytest.raises(ProtocolError, match="more than 1000 files and directories"):
        _tree(*((_FILE, f"{number}/" + "d/" * 300 + "f") for number in range(4)))


def test_names_link_targets_and_xattrs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_TEXT", 64 << 10)
    with pytest.raises(ProtocolError, match="MiB of names"):
        _tree(*((_FILE, f"{number:0255}") for number in range(300)))
    with pytest.raises(ProtocolError, match="MiB of names"):
        _tree(*((_LINK, str(number), "t" * 4000) for number in range(20)))
    tar = Tar()
    for number in range(2):
        tar.add(str(number), pax_headers={"SCHILY.xattr.user.a": "v" * 60_000})
    with pytest.raises(ProtocolError, match="MiB of names"):
        erofs.write_erofs(io.BytesIO(tar.bytes()).read, io.BytesIO())


def test_global_headers_cost_nothing_in_the_entries_that_follow() -> None:
    """Docker ignores them. A MiB of attributes in each of 200 files would be 200 MiB."""
    out = io.BytesIO()
    fields = {f"SCHILY.xattr.user.a{number}": "v" * 1000 for number in range(100)}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={**fields, "uid": "77"}) as tar:
        for number in range(200):
            tar.addfile(tarfile.TarInfo(str(number)))
    source = io.BytesIO(out.getvalue())
    tracemalloc.start()
    kept = list(tarstream.entries(source.read))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 200
    assert all(not entry.xattrs and entry.uid == 0 for entry in kept)
    assert peak < 2 << 20


@pytest.mark.parametrize(("name", "value"), [("a", "v" * 65536), ("n" * 251, "v")])
def test_an_xattr_that_no_inode_can_hold(name: str, value: str) -> None:
    tar = Tar().add("f", pax_headers={f"SCHILY.xattr.user.{name}": value})
    with pytest.raises(ProtocolError, match="extended attributes"):
        erofs.write_erofs(io.BytesIO(tar.bytes()).read, io.BytesIO())


def test_a_file_has_at_most_as_many_xattr_bytes_as_an_inode_can_say() -> None:
    tar = Tar()
    for number in range(4):
        tar.add("d/", kind=_DIR, pax_headers={f"SCHILY.xattr.user.a{number}": "v" * 60_000})
    with pytest.raises(ProtocolError, match="extended attributes"):
        erofs.write_erofs(io.BytesIO(tar.bytes()).read, io.BytesIO())


def test_sparse_files_do_not_make_a_disk_of_any_size() -> None:
    tar = Tar()
    fields = {"GNU.sparse.size": str(1 << 39), "GNU.sparse.map": ""}
    for number in range(3):
        tar.add(str(number), b"", pax_headers=fields)
    with pytest.raises(ProtocolError, match="larger than 1 TiB"):
        erofs.write_erofs(io.BytesIO(tar.bytes()).read, io.BytesIO())
