"""`--gpus`, CDI names and PCI devices of the host, as real docker CLIs send them. No such device is here, so all are refused."""

import shutil
import subprocess

import pytest

from tests.live.daemon import Daemon, on_qemu

pytestmark = [pytest.mark.live, on_qemu]

# Debian's CLI (20.10) knows no CDI names.
_CLIS = [program for program in ("/usr/bin/docker", "/usr/local/bin/docker") if shutil.which(program)]


def _refused(program: str, daemon: Daemon, *options: str) -> str:
    done = subprocess.run(
        [program, "-H", daemon.host, "run", "--rm", *options, "busybox", "true"], capture_output=True, text=True
    )
    assert done.returncode == 125
    return done.stderr


@pytest.mark.parametrize("program", _CLIS)
def test_gpus_are_refused_in_dockers_words_and_the_error_says_what_there_is(program: str, daemon: Daemon) -> None:
    text = _refused(program, daemon, "--gpus", "all")
    assert 'could not select device driver "" with capabilities: [[gpu]]: QEMU gives containers PCI devices' in text
    text = _refused(program, daemon, "--gpus", "driver=cdi,device=vfio/pci=0000:ff:1f.7")
    assert "PCI device 0000:ff:1f.7 does not exist on this host" in text


def test_the_cli_sends_cdi_names(daemon: Daemon) -> None:
    newest = _CLIS[-1]
    version = subprocess.run([newest, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.split()[2].split(".")[0]) < 25:
        pytest.skip("this docker CLI knows no CDI names")
    text = _refused(newest, daemon, "--device", "vfio/pci=0000:ff:1f.7")
    assert "PCI device 0000:ff:1f.7 does not exist on this host" in text
    text = _refused(newest, daemon, "--device", "nvidia.com/gpu=all")
    assert "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all: QEMU gives containers" in text
