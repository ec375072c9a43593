"""The deployed appliance: its OVA boots, applies its OVF properties, and runs a container on vSphere."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance.provision.access import Access
from tests.live.images import busybox_archive
from tests.live.vsphere.appliance import running_appliance

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not os.environ.get("VCH_TEST_OVA"), reason="takes long: make test-ova"),
]


@pytest.fixture(scope="module")
def ova() -> Path:
    from build.ova.image import build, builder_archive

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch"
    return build(cache, builder=builder_archive(cache))


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


_LOG_IN = """
import sys, paramiko
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("192.0.2.1", 22, "root", key_filename=sys.argv[1], timeout=60, banner_timeout=60, auth_timeout=60)
_, out, _ = client.exec_command(sys.argv[2])
print(out.read().decode())
"""


def test_ssh_for_a_time_and_a_reboot(ova: Path, root: Path) -> None:
    key = root / "key"
    pair = Ed25519PrivateKey.generate()
    key.write_bytes(pair.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = pair.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    with running_appliance(root, ova, more={"root-password": "only here"}) as (appliance, _):
        appliance.wait_served()
        log_in = (sys.executable, "-c", _LOG_IN, str(key))
        assert appliance.run_beside(*log_in, "id").returncode, "SSH is on by itself"
        # The message that vch-access receives from VMware's tools.
        request = Access("1", 90, public).encode()
        appliance.type_at_console("root", "only here", f"echo '{request}' | /opt/vch/bin/vch-access", "")
        deadline = time.monotonic() + 60
        while appliance.run_beside(*log_in, "id").returncode:
            assert time.monotonic() < deadline, appliance.console()[-2000:]
            time.sleep(1)
        done = appliance.run_beside(
            *log_in, "id; systemctl is-system-running; systemctl --failed --plain --no-legend; grep -c . /proc/mounts"
        )
        assert "uid=0(root)" in done.stdout, done.stdout + done.stderr + appliance.console()[-2000:]
        assert "running" in done.stdout, done.stdout
        screen = appliance.run_beside(*log_in, "cat /dev/vcs1; cat /proc/sys/net/ipv4/conf/all/rp_filter").stdout
        assert screen.strip().endswith("2"), "asymmetric routes"
        assert "DOCKER_HOST=tcp://192.0.2.1:2376 DOCKER_TLS_VERIFY=1" in screen, screen
        assert re.search(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", screen), screen
        archive = root / "busybox.tar"
        archive.write_bytes(busybox_archive())
        appliance.docker("load", "-i", str(archive))
        appliance.docker("run", "-d", "--name", "stays", "busybox", "sh", "-c", "echo begun; sleep 10000")
        began = appliance.docker("inspect", "-f", "{{.State.StartedAt}}", "stays")
        # The root file system is read-only.
        assert "Read-only file system" in appliance.run_beside(*log_in, "touch /usr/x /etc/x 2>&1").stdout
        deadline = time.monotonic() + 150
        while not appliance.run_beside(*log_in, "true").returncode:
            assert time.monotonic() < deadline, "SSH stays on"
            time.sleep(5)
        appliance.type_at_console("", "reboot")
        time.sleep(20)
        appliance.wait_served()
        assert appliance.docker("inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", "stays") == f"true {began}"
        assert appliance.docker("logs", "stays") == "begun\n"
        assert appliance.docker("exec", "stays", "echo", "still") == "still\n"
        assert appliance.run_beside(*log_in, "true").returncode, (
            "a request for SSH from before the reboot opens SSH again"
        )
