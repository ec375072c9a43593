"""docker diff, export and commit say the same of what a container has become."""

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator

import pytest

from tests.live.daemon import Daemon
from tests.live.images import busybox_layer, image_archive

pytestmark = pytest.mark.live


def _layer(**contents: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="module")
def changed(daemon: Daemon) -> Iterator[str]:
    """A container on three layers; the third layer hides files of the second."""
    second = _layer(
        **{"t/gone": b"1", "t/kept": b"2", "t/in/one": b"3", "t/in/two": b"4", "t/same": b"5", "r/x": b"6", "r/y": b"7"}
    )
    third = _layer(**{"t/.wh.gone": b"", "t/in/.wh..wh..opq": b"", "t/in/three": b"8"})
    daemon.must(
        "load",
        stdin=image_archive([busybox_layer(), second, third], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "changes:1"),
    )
    script = (
        "echo n > /t/gone; chmod 600 /t/kept; touch -r /t/same /t/same; rm -r /r; mkdir /r; echo z > /r/z; rm /t/in/three; "
        "mkdir -p /new/deep; ln -s x /new/link; mkfifo /new/pipe; rm /etc/passwd; mkdir /etc/passwd; echo h >> /etc/hosts"
    )
    daemon.must("run", "--name", "changed", "changes:1", "sh", "-c", script)
    yield "changed"
    daemon.must("rm", "-f", "changed")


_EXPECTED = """\
C /etc
C /etc/passwd
A /new
A /new/deep
A /new/link
A /new/pipe
C /r
D /r/x
D /r/y
A /r/z
C /t
A /t/gone
C /t/in
D /t/in/three
C /t/kept
"""


def test_diff_is_exact(daemon: Daemon, changed: str) -> None:
    assert daemon.must("diff", changed) == _EXPECTED


def test_a_container_that_did_nothing_has_no_changes(daemon: Daemon) -> None:
    daemon.must("run", "--name", "idle", "--init", "-w", "/etc", "busybox", "cat", "/etc/hosts", "/etc/resolv.conf")
    assert daemon.must("diff", "idle") == ""
    daemon.must("rm", "idle")


def _facts(member: tarfile.TarInfo) -> tuple[object, ...]:
    # Mount points that every container has are created again.
    ours = (".dockerenv", "dev", "proc", "sys", "etc", "etc/hosts", "etc/hostname", "etc/mtab", "etc/resolv.conf")
    when = 0 if member.name in ours else member.mtime
    return (member.name, member.type, member.mode, member.uid, member.gid, member.size, when, member.linkname)


def test_commit_has_what_diff_says(daemon: Daemon, changed: str) -> None:
    changes = (
        "LABEL a=$PATH",
        'ENTRYPOINT ["cat"]',
        'CMD ["/t/gone"]',
        "ENV PATH=/sbin:$PATH B=${NONE:-x}",
        "ONBUILD RUN $B",
    )
    flags = [word for change in changes for word in ("-c", change)]
    image = daemon.must("commit", *flags, changed, "committed:1").strip()
    found = json.loads(daemon.must("inspect", image))[0]["Config"]
    assert (found["Labels"], found["OnBuild"]) == ({"a": "/bin"}, ["RUN $B"])
    assert found["Env"] == ["PATH=/sbin:/bin", "B=x"]
    # Without a new command, the new entrypoint has no arguments.
    other = daemon.must("commit", "-c", 'ENTRYPOINT ["/app"]', "-c", "WORKDIR /w $A", changed, "committed:2").strip()
    commands = daemon.must(
        "inspect", other, "--format", "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{.Config.WorkingDir}}"
    )
    assert commands == '["/app"] null /w \n'
    # Neither true nor false as `dangling` makes a prune remove images that have names.
    daemon.must("image", "prune", "-f", "--filter", "dangling=True", "--filter", "label=a")
    layers = json.loads(daemon.must("inspect", image, "--format", "{{json .RootFS.Layers}}"))
    assert len(layers) == 4
    # A container of the image has no changes, and the same files as the container that was committed.
    daemon.must("run", "--name", "again", "committed:1")
    assert daemon.must("diff", "again") == ""
    assert daemon.must("logs", "again") == "n\n"
    exports = []
    for name in (changed, "again"):
        data = subprocess.run(daemon.command("export", name), capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            exports.append([_facts(one) for one in archive])
    assert exports[0] == exports[1]
    # A name that moved, or that is gone, is not the container's image any more.
    shown = ("ps", "-a", "--filter", "name=again", "--format", "{{.Image}}")
    assert daemon.must(*shown) == "committed:1\n"
    daemon.must("tag", "committed:2", "committed:1")
    assert daemon.must(*shown) == f"{image.removeprefix('sha256:')[:12]}\n"
    daemon.must("rm", "again")
    daemon.must("rmi", "committed:1", "committed:2", image)


def test_a_commit_without_changes_adds_no_layer(daemon: Daemon) -> None:
    daemon.must("create", "--name", "plain", "busybox", "true")
    image = daemon.must("commit", "plain").strip()
    assert len(json.loads(daemon.must("inspect", image, "--format", "{{json .RootFS.Layers}}"))) == 1
    daemon.must("rm", "plain")
    daemon.must("rmi", image)


def test_commit_pauses_what_runs(daemon: Daemon) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i > /m; mv /m /n; done"
    daemon.must("run", "-d", "--name", "busy", "busybox", "sh", "-c", script)
    daemon.must("exec", "busy", "sh", "-c", "until [ -s /n ]; do sleep 0.05; done")
    assert daemon.must("inspect", "busy", "--format", "{{.State.Status}}") == "running\n"
    image = daemon.must("commit", "busy").strip()
    assert daemon.must("inspect", "busy", "--format", "{{.State.Status}}") == "running\n"
    events = daemon.must(
        "events", "--since", "1m", "--until", str(time.time()), "--filter", "container=busy", "--format", "{{.Action}}"
    ).split()
    assert events[-3:] == ["pause", "unpause", "commit"]
    assert daemon.must("run", "--rm", image, "cat", "/n").strip().isdigit()
    daemon.must("rm", "-f", "busy")
    daemon.must("rmi", image)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("RUN true", "RUN is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("HEALTHCHECK NONSENSE", "Unknown type"),
    ],
)
def test_invalid_changes_of_a_commit(daemon: Daemon, changed: str, change: str, text: str) -> None:
    assert text in daemon.docker("commit", "-c", change, changed).stderr
