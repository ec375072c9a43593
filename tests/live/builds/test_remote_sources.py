"""What BuildKit fetches by itself: files by http, git repositories, and whole contexts by either."""

import contextlib
import functools
import http.server
import io
import json
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from tests.live.builds.conftest import in_lane, on_host
from tests.live.builds.native import PATIENCE, BuildDaemon
from tests.live.programs import free_port
from tests.live.waiting import until

# They are served on the loopback of this host.
pytestmark = [in_lane, on_host]


@dataclass(frozen=True)
class Sources:
    """Where files and a git repository are served: "http://HOST:PORT", and "git://HOST:PORT/repository.git"."""

    files: str
    repository: str
    # The commit of the branch `main`.
    commit: str


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _served_files(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _served_repositories(folder: Path) -> Iterator[str]:
    port = free_port()
    options = [f"--base-path={folder}", "--export-all", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr"]
    process = subprocess.Popen(["git", "daemon", *options], stdin=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens)
        yield f"git://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    root = tmp_path_factory.mktemp("sources")
    project = root / "repository.git"
    (project / "sub").mkdir(parents=True)
    (project / "file").write_text("of main\n")
    (project / "Dockerfile").write_text("FROM busybox\nCOPY file /f\nRUN cat /f && test ! -e /.git\n")
    (project / "sub/Dockerfile").write_text("FROM busybox\nCOPY . /all\nRUN ls /all && echo of the folder\n")
    _git(project, "init", "-q", "-b", "main")
    _git(project, "add", ".")
    _git(project, "commit", "-qm", "one")
    commit = _git(project, "rev-parse", "HEAD")
    _git(project, "checkout", "-q", "-b", "other")
    (project / "file").write_text("of other\n")
    _git(project, "commit", "-qam", "two")
    files = root / "files"
    files.mkdir()
    (files / "plain").write_text("by http\n")
    (files / "Dockerfile").write_text("FROM busybox\nRUN echo a Dockerfile by http\n")
    for name, content in (("inner.tar", b"unpacked\n"), ("context.tar.gz", b"of the archive\n")):
        with tarfile.open(files / name, "w:gz" if name.endswith("gz") else "w") as tar:
            for member, data in (("f", content), ("d/Dockerfile", b"FROM busybox\nCOPY f /f\nRUN cat /f\n")):
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    with _served_files(files) as address, _served_repositories(root) as repositories:
        yield Sources(address, f"{repositories}/repository.git", commit)


def _added(sources: Sources) -> str:
    """A Dockerfile that adds what is remote."""
    return (
        f"FROM busybox\nADD {sources.files}/plain /plain\nADD --chmod=640 {sources.files}/plain /folder/\n"
        "RUN cat /plain && test $(stat -c %a /plain) = 600 && test $(stat -c %a /folder/plain) = 640\n"
        # An archive by http stays as it is, unless asked.
        f"ADD {sources.files}/inner.tar /\nRUN test -f /inner.tar && test ! -e /f\n"
        f"ADD --unpack=true {sources.files}/inner.tar /unpacked/\nRUN cat /unpacked/f\n"
        f"ADD {sources.repository}#other /other\nADD {sources.repository}#{sources.commit}:sub /sub\n"
        "RUN cat /other/file && test ! -e /other/.git && ls /sub\n"
        f"ADD --keep-git-dir=true {sources.repository}#main /kept\nRUN test -d /kept/.git && cat /kept/file\n"
    )


def test_a_dockerfile_adds_what_is_remote(builds: BuildDaemon, sources: Sources) -> None:
    _, err = builds.buildx("build", "--no-cache", str(builds.context(_added(sources))))
    position = 0
    for text in ("by http\n", "unpacked\n", "of other\n", "of main\n"):
        position = err.index(text, position)
    missing = builds.context(f"FROM busybox\nADD {sources.files}/missing /\n")
    _, err = builds.buildx("build", str(missing), code=1)
    assert "404" in err
    wrong = builds.context(f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {sources.files}/plain /\n")
    _, err = builds.buildx("build", str(wrong), code=1)
    assert "digest mismatch" in err


def test_remote_contexts_of_buildx(builds: BuildDaemon, sources: Sources) -> None:
    for context, text in (
        (sources.repository, "of other\n"),
        (f"{sources.repository}#main", "of main\n"),
        (f"{sources.repository}#main:sub", "of the folder\n"),
        (f"{sources.files}/Dockerfile", "a Dockerfile by http\n"),
    ):
        _, err = builds.buildx("build", "--no-cache", context)
        assert text in err, context
    _, err = builds.buildx("build", "--no-cache", "-f", "d/Dockerfile", f"{sources.files}/context.tar.gz")
    assert "of the archive\n" in err
    _, err = builds.buildx("build", f"{sources.repository}#nowhere", code=1)
    assert "nowhere" in err


def _logs(client: "docker.DockerClient", **options: Any) -> str:
    _, lines = client.images.build(nocache=True, **options)
    return "".join(str(line.get("stream", "")) for line in lines if isinstance(line, dict))


def test_the_parameter_remote(builds: BuildDaemon, sources: Sources) -> None:
    client = docker.DockerClient(base_url=builds.daemon.host, timeout=PATIENCE)
    try:
        assert "of main\n" in _logs(client, path=f"{sources.repository}#main")
        assert "of the folder\n" in _logs(client, path=f"{sources.repository}#main:sub")
        assert "a Dockerfile by http\n" in _logs(client, path=f"{sources.files}/Dockerfile")
        archive = f"{sources.files}/context.tar.gz"
        assert "of the archive\n" in _logs(client, path=archive, dockerfile="d/Dockerfile", tag="remote:1")
        [image] = json.loads(builds.daemon.must("image", "inspect", "remote:1"))
        assert len(image["RootFS"]["Layers"]) == 3
        with pytest.raises((docker.errors.BuildError, docker.errors.APIError), match="404"):
            _logs(client, path=f"{sources.files}/missing")
        assert "by http\n" in _logs(client, fileobj=io.BytesIO(_added(sources).encode()))
    finally:
        client.close()
