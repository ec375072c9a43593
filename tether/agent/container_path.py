"""Paths of a container as Docker's API has them."""

import os
import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContainerPath:
    """An absolute, normal path. `name` is its last element.

    `follows`: the given text ended in a slash, so that a symbolic link at the end of the path is followed too.
    """

    path: str
    follows: bool
    name: str

    @classmethod
    def of(cls, text: str) -> "ContainerPath":
        clean = posixpath.normpath(f"/{text.lstrip('/')}")
        name = "." if text.endswith("/.") else posixpath.basename(clean) or "/"
        return cls(clean, clean == "/" or text.endswith(("/", "/.")), name)

    def resolve(self) -> str:
        """Return the path with all links before the last element resolved, and that one too if the path `follows`."""
        if self.follows:
            return os.path.realpath(self.path)
        directory, base = posixpath.split(self.path)
        return posixpath.join(os.path.realpath(directory), base)
