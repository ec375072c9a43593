"""What the tests of this folder share: a simulator for each module, of a vCenter and then of an ESXi."""

from collections.abc import Iterator

import pytest

from tests.live.vsphere.simulator import Simulator, running_vcsim


@pytest.fixture(scope="module", params=["vcenter", "esx"])
def simulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running_vcsim(tmp_path_factory.mktemp("vcsim"), *(("-esx",) if request.param == "esx" else ())) as one:
        yield one
