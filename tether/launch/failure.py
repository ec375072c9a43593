"""Why a launch failed, as it crosses from the child to the tether."""

import enum
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager


class Kind(enum.IntEnum):
    """As in process.proto, StartFailure.Kind."""

    OTHER = 0
    NOT_FOUND = 1
    PERMISSION = 2
    NO_SUCH_USER = 3
    NO_SUCH_GROUP = 4
    BAD_WORKING_DIRECTORY = 5
    SETUP = 6


class LaunchFailure(Exception):
    """`step` is what the launcher did ("exec", "mount /proc"), `subject` the object of it."""

    def __init__(self, kind: Kind, step: str, subject: str, errno: int = 0, searched_path: bool = False) -> None:
        reason = os.strerror(errno).lower() if errno else kind.name.lower()
        super().__init__(f"{step} {subject}: {reason}")
        self.kind = kind
        self.step = step
        self.subject = subject
        self.errno = errno
        self.searched_path = searched_path

    def encode(self) -> bytes:
        return json.dumps([int(self.kind), self.step, self.subject, self.errno, self.searched_path]).encode()[:65536]

    @classmethod
    def decode(cls, data: bytes) -> "LaunchFailure":
        kind, step, subject, errno, searched = json.loads(data)
        return cls(Kind(kind), step, subject, errno, searched)


@contextmanager
def step(name: str, subject: str = "", kind: Kind = Kind.SETUP) -> Iterator[None]:
    """Turn an OSError of the block into a LaunchFailure that names the step."""
    try:
        yield
    except OSError as error:
        raise LaunchFailure(kind, name, subject or str(error.filename or ""), error.errno or 0) from error
