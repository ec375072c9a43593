"""docker-py's own integration tests for containers, exec, attach and logs, fetched from PyPI and run against vchd.

They come with the source distribution of docker 6.1.3 (later ones have none) and run with the docker-py that is installed.
`LEFT_OUT` names those that fail, and why.
"""

import io
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon
from tests.live.images import busybox_layer, image_archive
from tests.live.registry import real_registry

pytestmark = pytest.mark.live

_VERSION = "6.1.3"
_CONTAINERS = ("api_container_test", "api_exec_test")
# These make the same requests through docker-py's other interface.
_MODELS = ("models_containers_test",)
_OTHERS = (
    "api_image_test",
    "api_network_test",
    "api_volume_test",
    "models_images_test",
    "models_networks_test",
    "models_volumes_test",
)
_BUILD = "needs a builder: tests/live/builds/test_docker_py_builds.py runs it"
LEFT_OUT: dict[str, str] = {
    "api_container_test.ContainerCPUTest.test_create_with_runtime": "the one runtime is called vch",
    "api_container_test.AttachContainerTest.test_run_container_reading_socket_ws": "docker-py cannot, over a unix socket",
    "models_containers_test.ContainerCollectionTest.test_run_with_image_that_does_not_exist": "needs a registry far away",
    "models_images_test.ImageCollectionTest.test_build": _BUILD,
    "models_images_test.ImageCollectionTest.test_build_with_error": _BUILD,
    "models_images_test.ImageCollectionTest.test_build_with_multiple_success": _BUILD,
    "models_images_test.ImageCollectionTest.test_build_with_success_build_output": _BUILD,
    "models_images_test.ImageCollectionTest.test_pull_with_sha": "wants an image of Docker's registry by its digest",
    "models_containers_test.ContainerTest.test_exec_run_failed": "wants 126 for what is not found; moby says 127 since 25.0",
}


def _fetch() -> Path:
    """The folder with the tests; from the cache after the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/downloads"
    cache.mkdir(parents=True, exist_ok=True)
    name = f"docker-{_VERSION}"
    if not (cache / f"{name}.tar.gz").exists():
        command = (
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            "docker",
            "-d",
            str(cache),
            f"docker=={_VERSION}",
        )
        subprocess.run([sys.executable, *command], check=True)
    return cache / f"{name}.tar.gz"


def _image(name: str) -> bytes:
    """An image with what these tests expect of alpine: busybox, a user, a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        # Makes each image unique.
        own = tarfile.TarInfo("image-name")
        own.size = len(name)
        archive.addfile(own, io.BytesIO(name.encode()))
        passwd = b"root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n"
        member = tarfile.TarInfo("etc/passwd")
        member.size, member.mode = len(passwd), 0o644
        archive.addfile(member, io.BytesIO(passwd))
        member = tarfile.TarInfo("var/opt")
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
    return image_archive([busybox_layer(), out.getvalue()], {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}, name)


def _check(daemon: Daemon, tmp_path: Path, files: tuple[str, ...], least: int, version: str = "") -> None:
    """Run these files of docker-py's tests with this API version. All pass but those in LEFT_OUT."""
    expected = {name for name in LEFT_OUT if name.partition(".")[0] in files}
    failed = run_suite(daemon, tmp_path, files, least, version)
    assert {name: text[:500] for name, text in failed.items() if name not in LEFT_OUT} == {}
    assert expected - failed.keys() == set(), "these pass by now"


def run_suite(
    daemon: Daemon,
    tmp_path: Path,
    files: tuple[str, ...],
    least: int,
    version: str = "",
    chosen: str = "",
    replaced: Mapping[str, str] = {},
) -> dict[str, str]:
    """Run these files of docker-py's tests, of which at least `least`; those that fail, with their messages.

    `chosen`: see pytest -k. `replaced`: text of the tests, and what stands in its place.
    """
    with tarfile.open(_fetch()) as archive:
        members = [one for one in archive if f"docker-{_VERSION}/tests/" in one.name]
        archive.extractall(tmp_path, members)
    before = set(daemon.must("ps", "-aq").split())
    report = tmp_path / "report.xml"
    folder = tmp_path / f"docker-{_VERSION}"
    for name in files:
        path = folder / f"tests/integration/{name}.py"
        text = path.read_text()
        for old, new in replaced.items():
            text = text.replace(old, new)
        path.write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:trio",
        "--junit-xml",
        str(report),
        "-W",
        "ignore",
        *(f"tests/integration/{name}.py" for name in files),
        *(("-k", chosen) if chosen else ()),
    ]
    # The tests' timeout marks need a plug-in that is not installed; our timeout bounds the whole run.
    environment = {**os.environ, "DOCKER_HOST": daemon.host}
    if version:
        environment["DOCKER_TEST_API_VERSION"] = version
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    for left in set(daemon.must("ps", "-aq").split()) - before:
        daemon.must("rm", "-f", left)
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    failed = {
        f"{case.get('classname', '').removeprefix('tests.integration.')}.{case.get('name')}": child.get("message", "")
        for case in cases
        for child in case
        if child.tag in ("failure", "error")
    }
    assert len(cases) >= least
    return failed


@pytest.fixture
def alpine(daemon: Daemon) -> Daemon:
    for name in ("alpine:3.10", "alpine:latest"):
        daemon.must("load", stdin=_image(name))
    return daemon


def test_its_tests_of_containers(alpine: Daemon, tmp_path: Path) -> None:
    _check(alpine, tmp_path, _CONTAINERS, 100)


@pytest.mark.skipif("VCH_TEST_CLIENTS" not in os.environ, reason="`make test-clients` runs it")
def test_its_tests_of_models_of_containers(alpine: Daemon, tmp_path: Path) -> None:
    _check(alpine, tmp_path, _MODELS, 35)


@pytest.mark.skipif(os.geteuid() != 0, reason="networks need the rights of root")
def test_its_tests_of_images_networks_and_volumes(tmp_path: Path) -> None:
    with running_daemon(tmp_path, "--registry-mirror", "http://127.0.0.1:5000") as daemon:
        (tmp_path / "hub").mkdir()
        with real_registry(tmp_path / "hub", inside=daemon.inside()) as host:
            # A local registry in place of Docker Hub.
            for name in ("alpine:3.10", "alpine:latest", "hello-world:latest", "busybox:latest"):
                daemon.must("load", stdin=_image(name))
                daemon.must("tag", name, f"{host}/library/{name}")
                daemon.must("push", f"{host}/library/{name}")
                daemon.must("rmi", f"{host}/library/{name}")
            daemon.must("rmi", "hello-world")
            # Some tests need fields that later API versions removed: use the version of Debian's dockerd.
            _check(daemon, tmp_path, _OTHERS, 70, "1.41")
