"""Network namespaces, in one of the test's own."""

import errno
import os
import socket

import pytest

from tests.tether.isolated import run_isolated
from tether.system.network_namespace import entered, make_network_namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _now() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def _enter() -> None:
    before = _now()
    namespace = make_network_namespace()
    assert _now() == before
    with entered(-1):
        assert _now() == before
    with entered(namespace):
        inside = _now()
        assert inside != before
        with socket.socket() as one:
            # Loopback is up there; the namespace outside has none.
            assert one.connect_ex(("127.0.0.1", 1)) == errno.ECONNREFUSED
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", 1)) == errno.ENETUNREACH
    with pytest.raises(ZeroDivisionError), entered(namespace):
        1 / 0  # noqa: B018
    assert _now() == before
    # Each namespace lives as long as its descriptor.
    count = len(os.listdir("/proc/self/fd"))
    os.close(namespace)
    assert len(os.listdir("/proc/self/fd")) == count - 1
    not_one = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"), entered(not_one):
        pass
    assert _now() == before


def test_entering_and_leaving() -> None:
    run_isolated(_enter, namespaces=("--net",))
