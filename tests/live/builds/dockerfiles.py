"""Dockerfiles that every build client has to build alike. They check themselves: a RUN fails if something is not as it should be."""

import io
import tarfile
from dataclasses import dataclass, field
from typing import Any


def _tar(**members: str) -> bytes:
    with io.BytesIO() as buffer, tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
        tar.close()
        return buffer.getvalue()


@dataclass(frozen=True)
class Case:
    """`arguments` are those of `docker build` and of `buildx build`. `config`: what the image's config has, by its JSON name.

    `output` are texts in the progress, in order. `error`: the build fails, and prints this.
    """

    name: str
    dockerfile: str
    files: dict[str, str | bytes] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    output: tuple[str, ...] = ()
    error: str = ""

    def __str__(self) -> str:
        return self.name


CASES = [
    Case(
        "stages",
        "FROM busybox AS one\nRUN echo from-one > /file\n"
        "FROM busybox AS two\nCOPY --from=one /file /copied\nRUN cat /copied && test ! -e /file\n"
        "FROM busybox AS three\nRUN exit 9\n",
        arguments=("--target", "two"),
        output=("from-one",),
    ),
    Case(
        "arguments",
        "ARG BASE=none\nFROM $BASE\nARG A=default\nARG B=default\nENV C=$A-$B\nRUN test $C = given-default && echo is $C\n",
        arguments=("--build-arg", "BASE=busybox", "--build-arg", "A=given"),
        output=("is given-default",),
        config={"Env": ["PATH=/bin", "C=given-default"]},
    ),
    Case(
        "dockerignore",
        "FROM busybox\nCOPY . /all/\nRUN cd /all && find . -type f | sort && test ! -e skipped && test -e folder/kept.log\n",
        files={
            ".dockerignore": "skipped\n**/*.log\n!folder/kept.log\n",
            "skipped": "s",
            "a.log": "l",
            "folder/b.log": "l",
            "folder/kept.log": "l",
            "kept": "k",
        },
        output=("./folder/kept.log", "./kept"),
    ),
    Case(
        "modes and owners",
        "FROM busybox\nRUN echo u:x:1000:1000::/:/bin/sh >> /etc/passwd\nCOPY --chmod=741 --chown=1000:7 f /f\n"
        'RUN test "$(stat -c %a:%u:%g /f)" = 741:1000:7\nUSER u\nRUN id -u && test "$(id -u)" = 1000\n',
        files={"f": "x"},
        config={"User": "u"},
    ),
    Case(
        "archives and folders",
        "FROM busybox\nWORKDIR /a/b\nADD t.tar .\nADD f /elsewhere/\nRUN cat in-tar /elsewhere/f && pwd\n",
        files={"t.tar": _tar(**{"in-tar": "unpacked\n"}), "f": "plain\n"},
        output=("unpacked", "plain", "/a/b"),
        config={"WorkingDir": "/a/b"},
    ),
    Case(
        "config",
        'FROM busybox\nLABEL a=b "c d"="e f"\nEXPOSE 80 53/udp\nVOLUME /data\nSTOPSIGNAL SIGUSR1\n'
        'HEALTHCHECK --interval=5s CMD true\nENTRYPOINT ["echo", "x"]\nCMD ["y"]\n',
        arguments=("--label", "given=yes"),
        config={
            "Labels": {"a": "b", "c d": "e f", "given": "yes"},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGUSR1",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000},
            "Entrypoint": ["echo", "x"],
            "Cmd": ["y"],
        },
    ),
    Case(
        "shell",
        'FROM busybox\nSHELL ["/bin/sh", "-ec"]\nRUN false || true; echo in $0\nENTRYPOINT echo as a shell\n',
        config={"Shell": ["/bin/sh", "-ec"], "Entrypoint": ["/bin/sh", "-ec", "echo as a shell"]},
    ),
    Case(
        "triggers",
        "FROM busybox\nONBUILD ARG WORD=none\nONBUILD RUN echo $WORD > /triggered\nONBUILD COPY f /f\n",
        config={"OnBuild": ["ARG WORD=none", "RUN echo $WORD > /triggered", "COPY f /f"]},
    ),
    Case(
        "heredocs and links",
        "FROM busybox\nRUN <<END\necho here\necho document\nEND\nCOPY <<END /inline\ncontent\nEND\n"
        "COPY --link f /linked\nADD --link f /added/\nRUN cat /inline /linked /added/f\n",
        files={"f": "link\n"},
        output=("here\n", "document\n", "content\n", "link\n", "link\n"),
    ),
    Case(
        "mounts",
        "FROM busybox AS other\nRUN echo other > /o\nFROM busybox\n"
        "RUN --mount=type=bind,target=/b --mount=type=bind,from=other,source=/o,target=/o cat /b/f /o && ! touch /b/x\n"
        "RUN --mount=type=tmpfs,target=/t mount | grep ' /t ' && touch /t/x\n"
        "RUN --mount=type=cache,id=mounts,target=/c,mode=0700 touch /c/x && stat -c %a /c\n"
        "RUN --mount=type=cache,id=mounts,target=/c,mode=0700,readonly ls /c/x && test ! -e /t/x && test ! -e /b/f\n",
        files={"f": "bound\n"},
        output=("bound\n", "other\n", "tmpfs", "700\n", "/c/x\n"),
    ),
    Case(
        "entrypoints",
        'FROM busybox AS one\nENTRYPOINT ["a", "b"]\nCMD c d\nFROM one\nENTRYPOINT ["e"]\n',
        # An ENTRYPOINT of a later stage ends the CMD of an earlier one.
        config={"Entrypoint": ["e"], "Cmd": None},
    ),
    Case(
        "scratch",
        'FROM scratch\nCOPY f /f\nCMD ["/f"]\n',
        files={"f": "x"},
        config={"Cmd": ["/f"]},
    ),
    Case(
        "RUN that fails",
        "FROM busybox\nRUN echo before && exit 42\n",
        output=("before",),
        error="exit 42",
    ),
    Case("missing file", "FROM busybox\nCOPY nowhere /x\n", error="nowhere"),
    Case(
        "syntax error",
        "FROM busybox\nNONSENSE x\n",
        error="dockerfile parse error on line 2: unknown instruction: NONSENSE",
    ),
    Case("empty", "\n# nothing\n", error="file with no instructions"),
]
