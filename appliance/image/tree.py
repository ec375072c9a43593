"""The files of a layer as a tree, built entry by entry from a hostile archive.

Names resolve as when an archive is unpacked in a chroot: a symbolic link of the same layer is followed in all but the last component
of a name, and `..` in a link stops at the root. (dockerd unpacks a layer in a chroot on an empty directory; containerd's pkg/archive
resolves names with RootPath. Both see this layer only, so a name never follows a link of a lower layer, and a hard link to a file of a
lower layer is refused.) As containerd does, the tree creates directories that a name needs.

A whiteout hides what lower layers have, and nothing of its own layer (OCI image-spec, layer.md): beside a directory of the same name
it makes the directory opaque.
"""

import stat

from appliance.errors import ProtocolError
from appliance.image.erofs_format import Node

MAX_NODES = 2_000_000
MAX_TEXT = 128 << 20
"""Bytes of all names, link targets and extended attributes of a layer."""
_MAX_DEPTH = 2048  # that of the longest path (PATH_MAX) with the shortest names
_MAX_STEPS = 8192  # components that one name may have with those of the links on its way
_MAX_LINKS = 40  # path_resolution(7)
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_OPAQUE_XATTR = b"trusted.overlay.opaque"


def _shown(name: bytes) -> str:
    return name[:200].decode("utf-8", "replace")


def _components(name: bytes) -> list[bytes]:
    """The components of a name, without `.` and `..`. ProtocolError for a name that leaves the layer."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise ProtocolError(f'invalid tar: "{_shown(name)}" is outside of the layer')
            parts.pop()
        elif part not in (b"", b"."):
            _check_component(part)
            parts.append(part)
    return parts


def _check_component(part: bytes) -> None:
    if len(part) > 255 or b"\0" in part:
        raise ProtocolError("invalid tar: file name too long")


def _refused(name: bytes, link: bytes | None, reason: str) -> ProtocolError:
    """The failed system call in Docker's words."""
    call = f"open /{_shown(name)}" if link is None else f"link /{_shown(name)} /{_shown(link)}"
    return ProtocolError(f"invalid tar: {call}: {reason}")


def _is_whiteout(node: Node) -> bool:
    return stat.S_ISCHR(node.mode) and node.device == 0


class Tree:
    """`root` is the layer's root directory. Every method raises ProtocolError for an archive that Docker refuses, or a tree too large."""

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR | 0o755, children={})
        self._nodes = 1
        self._text = 0
        # The directory of the last name: most entries of an archive share it with the entry before.
        self._last: tuple[bytes, Node] | None = None

    def count_text(self, size: int) -> None:
        """Count bytes of names, link targets or extended attributes."""
        self._text += size
        if self._text > MAX_TEXT:
            raise ProtocolError(f"invalid tar: more than {MAX_TEXT >> 20} MiB of names and extended attributes")

    def parent_of(self, name: bytes) -> tuple[Node, bytes] | None:
        """The directory that a name is in, and the name's last component. None for the root. Creates missing directories."""
        folder, _, last = name.rpartition(b"/")
        if last in (b"", b".", b".."):
            parts = _components(name)
            if not parts:
                return None
            return self._walk(parts[:-1], name), parts[-1]
        _check_component(last)
        if self._last is None or self._last[0] != folder:
            self._last = folder, self._walk(_components(folder), name)
        return self._last[1], last

    def _walk(self, parts: list[bytes], name: bytes, link: bytes | None = None) -> Node:
        """Follow the components to a directory, and create what is missing. `link` is the hard link that has `name` as its target."""
        waiting = parts[::-1]
        path = [self.root]
        steps = links = 0
        while waiting:
            part = waiting.pop()
            steps += 1
            if part == b"..":
                # Only a symbolic link brings this here. The parent of the root is the root.
                if len(path) > 1:
                    path.pop()
                continue
            children = path[-1].children
            assert children is not None
            child = children.get(part)
            if child is None or _is_whiteout(child):
                if link is not None:
                    raise _refused(name, link, "no such file or directory")
                child = self.put(path[-1], part, Node(stat.S_IFDIR | 0o755, children={}))
            if child.children is not None:
                path.append(child)
                if len(path) > _MAX_DEPTH:
                    raise ProtocolError(f"invalid tar: directories are nested deeper than {_MAX_DEPTH}")
                continue
            if not stat.S_ISLNK(child.mode):
                raise _refused(name, link, "not a directory")
            links += 1
            if links > _MAX_LINKS:
                raise _refused(name, link, "too many levels of symbolic links")
            if child.tail.startswith(b"/"):
                del path[1:]
            target = [one for one in child.tail.split(b"/") if one not in (b"", b".")]
            for one in target:
                _check_component(one)
            waiting += reversed(target)
            if steps + len(waiting) > _MAX_STEPS:
                raise _refused(name, link, "file name too long")
        return path[-1]

    def put(self, parent: Node, name: bytes, node: Node) -> Node:
        """Make `node` the entry `name` of a directory, in place of another. Returns the entry."""
        assert parent.children is not None
        existing = parent.children.get(name)
        if existing is None:
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise ProtocolError(f"invalid tar: more than {MAX_NODES} files and directories")
            self.count_text(len(name))
        elif existing is not node:
            if node.children is not None and _is_whiteout(existing):
                node.xattrs[_OPAQUE_XATTR] = b"y"
            # The directory of the last name may have been in the replaced entry, or behind it.
            self._last = None
        parent.children[name] = node
        return node

    def add_whiteout(self, parent: Node, name: bytes) -> bool:
        """Add the whiteout that a name stands for. False if the name is not that of a whiteout."""
        if not name.startswith(_WHITEOUT):
            return False
        if name == _OPAQUE:
            parent.xattrs[_OPAQUE_XATTR] = b"y"
            return True
        hidden = name[len(_WHITEOUT) :]
        if hidden.startswith(_WHITEOUT):
            return True  # metadata of aufs, which no lower layer has
        if hidden in (b"", b".", b".."):
            raise ProtocolError(f"invalid tar: invalid whiteout name: {_shown(name)}")
        assert parent.children is not None
        existing = parent.children.get(hidden)
        if existing is None:
            self.put(parent, hidden, Node(stat.S_IFCHR))
        elif existing.children is not None:
            existing.xattrs[_OPAQUE_XATTR] = b"y"
        return True

    def add_hard_link(self, parent: Node, name: bytes, link: bytes, target: bytes) -> None:
        """Make the entry `name` of a directory another name of a file of this layer. `link` is the whole name, for errors.

        A symbolic link that is the last component of `target` is not followed.
        """
        assert parent.children is not None
        # dockerd removes an old file of that name first, so a link to itself has no target.
        if parent.children.pop(name, None) is not None:
            self._last = None
        parts = _components(target)
        found: Node | None = self.root
        if parts:
            folder = self._walk(parts[:-1], target, link)
            assert folder.children is not None
            found = folder.children.get(parts[-1])
        if found is None or _is_whiteout(found):
            raise _refused(target, link, "no such file or directory")
        if found.children is not None:
            raise _refused(target, link, "operation not permitted")
        self.put(parent, name, found)
