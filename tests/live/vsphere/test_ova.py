"""The appliance as it is deployed: its OVA boots, is what its properties say, and runs a container on vSphere."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.images import busybox_archive
from tests.live.vsphere.appliance import running_appliance

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not os.environ.get("VCH_TEST_OVA"), reason="takes long: make test-ova"),
]


@pytest.fixture(scope="module")
def ova() -> Path:
    from build.ova.image import build

    return build(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.parametrize(("firmware", "by_cd"), [("bios", False), ("efi", True)])
def test_a_first_container_through_its_tls_port(ova: Path, root: Path, firmware: str, by_cd: bool) -> None:
    with running_appliance(root, ova, firmware=firmware, by_cd=by_cd) as (appliance, _):
        seconds = appliance.wait_served()
        print(f"{firmware}: served after {seconds:.0f} s")
        assert "vsphere" in appliance.docker("info")
        refused = appliance.docker("ps", check=False, identity=False)
        assert "certificate required" in refused or "bad certificate" in refused
        archive = root / "busybox.tar"
        archive.write_bytes(busybox_archive())
        appliance.docker("load", "-i", str(archive))
        assert appliance.docker("run", "--rm", "busybox", "echo", "from vSphere") == "from vSphere\n"
