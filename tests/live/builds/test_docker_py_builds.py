"""docker-py's own tests of builds (those of docker 6.1.3), against a vchd whose buildkitd runs natively. Their containers run in VMs."""

import os
from pathlib import Path

import pytest

from tests.live.builds.conftest import in_lane
from tests.live.builds.native import BuildDaemon
from tests.live.test_docker_py_suite import _image, run_suite

pytestmark = in_lane

# Some tests read the logs of a container at once after its start.
_NO_WAIT = "self.client.start(ctnr)\n        lsdata"
_WAIT = "self.client.start(ctnr)\n        self.client.wait(ctnr)\n        lsdata"
LEFT_OUT = {
    "api_build_test.BuildTest.test_build_squash": "BuildKit cannot squash",
    "api_build_test.BuildTest.test_build_with_cache_from": "BuildKit uses its own cache beside that of the named images",
    "api_build_test.BuildTest.test_build_with_network_mode": "RUNs join no network of containers, as with BuildKit in dockerd",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="networks need the rights of root")
def test_its_tests_of_builds(builds: BuildDaemon, tmp_path: Path) -> None:
    builds.daemon.must("load", stdin=_image("alpine:latest"))
    builds.daemon.must("tag", "alpine:latest", "alpine:3.10")
    files = ("api_build_test", "models_images_test")
    failed = run_suite(
        builds.daemon, tmp_path, files, 28, chosen="api_build_test or test_build", replaced={_NO_WAIT: _WAIT}
    )
    assert {name: text[:500] for name, text in failed.items() if name not in LEFT_OUT} == {}
    assert LEFT_OUT.keys() - failed.keys() == set(), "these pass by now"
