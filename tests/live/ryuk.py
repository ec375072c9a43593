"""Ryuk, the container of testcontainers that removes what a client has made once the client is gone."""

import pytest

from tests.live import gotools
from tests.live.daemon import Daemon
from tests.live.images import image_archive, layer_with
from tests.live.waiting import until

# Of all objects that testcontainers makes.
SESSION = "org.testcontainers.session-id"
_LISTS = (
    # Some libraries give their label to Ryuk, too, which never removes itself.
    ("ps", "-a", "--format", '{{if ne (.Label "org.testcontainers.ryuk") "true"}}{{.ID}}{{end}}'),
    ("network", "ls", "-q"),
    ("volume", "ls", "-q"),
)


def load_ryuk(daemon: Daemon, tag: str) -> None:
    """Load the image of a stand-in for Ryuk, by the tag that a library asks for. Skips the test without Go."""
    program = gotools.ryuk()
    if program is None:
        pytest.skip("Go is not installed")
    layer = layer_with("bin/ryuk", content=program.read_bytes(), mode=0o755)
    config: dict[str, object] = {"Cmd": ["/bin/ryuk"], "Labels": {"org.testcontainers.ryuk": "true"}}
    daemon.must("load", stdin=image_archive([layer], config, f"testcontainers/ryuk:{tag}"))


def made(daemon: Daemon) -> list[int]:
    """How many containers, networks and volumes of testcontainers' sessions exist, without Ryuk itself."""
    listed = [daemon.must(*words, "--filter", f"label={SESSION}").split() for words in _LISTS]
    return [len(names) for names in listed]


def ryuks(daemon: Daemon) -> str:
    """The names of the running Ryuks."""
    return daemon.must("ps", "--format", "{{.Names}}", "--filter", "label=org.testcontainers.ryuk=true")


def wait_reaped(daemon: Daemon) -> None:
    """Return when Ryuk has removed everything, and has ended."""
    until(lambda: made(daemon) == [0, 0, 0], 60, "Ryuk has not removed all objects")
    until(lambda: not ryuks(daemon), 30, "Ryuk has not ended")
