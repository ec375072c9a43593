"""The appliance of an OVA, booted by QEMU in a network namespace with VMware's simulator and a stand-in host."""

import contextlib
import os
import secrets
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.provision.environment import encode
from tests.live.certificates import Authority
from tests.live.vsphere.daemon import standing_in
from tests.live.vsphere.simulator import PASSWORD, USER, Simulator, running_vcsim

_SWITCH, _MANAGEMENT = "portgroup", "mgmt"
_THERE, _ITS = "192.0.2.2", "192.0.2.1"
_OVMF = "/usr/share/ovmf/OVMF.fd"
BOOT_SECONDS = 400.0


class Appliance:
    """A booted appliance, and how the docker CLI reaches it."""

    def __init__(self, namespace: str, authority: Authority, log: Path, process: "subprocess.Popen[bytes]") -> None:
        self._namespace = namespace
        self._log = log
        self._process = process
        self._authority = authority
        self._identity = authority.sign("/CN=operator")

    def docker(self, *arguments: str, check: bool = True, identity: bool = True) -> str:
        """Run the docker CLI, and return its output. Without an identity the CLI has no certificate."""
        certificate, key = self._identity if identity else ("", "")
        command = [
            "nsenter",
            f"--net=/run/netns/{self._namespace}",
            "--",
            "docker",
            "--tlsverify",
            "--tlscacert",
            str(self._authority.certificate),
            "--tlscert",
            str(certificate),
            "--tlskey",
            str(key),
            "-H",
            f"tcp://{_ITS}:2376",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if check and done.returncode:
            raise AssertionError(f"docker {arguments}: {done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if not check else "")

    def wait_served(self) -> float:
        """Wait until the API answers; return how many seconds that took."""
        begun = time.monotonic()
        while time.monotonic() - begun < BOOT_SECONDS:
            assert self._process.poll() is None, self.console()
            if "Server Version" in (said := self.docker("info", check=False)):
                return time.monotonic() - begun
            time.sleep(1)
        raise AssertionError(f"{said}\n{self.console()}")

    def type_at_console(self, *lines: str) -> None:
        """Type lines at the console, each after the console has printed something."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self._log.with_name("serial")))
            line.settimeout(60)
            for text in lines:
                line.sendall(text.encode() + b"\r")
                time.sleep(3)
            line.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while line.recv(4096):
                    pass

    def run_beside(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a program on a host of the same network."""
        inside = ["nsenter", f"--net=/run/netns/{self._namespace}", "--"]
        return subprocess.run([*inside, *command], capture_output=True, text=True, timeout=120, check=False)

    def console(self) -> str:
        """The output of the appliance's serial port."""
        return self._log.read_text(errors="replace")


@contextlib.contextmanager
def running_appliance(
    root: Path, ova: Path, *, firmware: str = "bios", by_cd: bool = False, more: Mapping[str, str] | None = None
) -> Iterator[tuple[Appliance, Simulator]]:
    """Power on an appliance. It reads its properties from QEMU's firmware configuration, or from a CD (`by_cd`)."""
    namespace = f"vch-{secrets.token_hex(4)}"
    inside = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
    authority = Authority(root / "ca")
    certificate, key = authority.sign("/CN=appliance", _ITS)
    with tarfile.open(ova) as archive:
        archive.extractall(root / "ova", filter="data")
    (system,) = (root / "ova").glob("*-system.vmdk")
    with contextlib.ExitStack() as stack:
        for command in (
            ["netns", "add", namespace],
            ["-n", namespace, "link", "set", "lo", "up"],
            *(
                command
                for name in (_SWITCH, _MANAGEMENT)
                for command in (
                    ["-n", namespace, "link", "add", name, "type", "bridge"],
                    ["-n", namespace, "link", "set", name, "up"],
                    ["-n", namespace, "tuntap", "add", f"{name[:4]}-ova", "mode", "tap"],
                    ["-n", namespace, "link", "set", f"{name[:4]}-ova", "master", name, "up"],
                )
            ),
            ["-n", namespace, "addr", "add", f"{_THERE}/24", "dev", _MANAGEMENT],
        ):
            subprocess.run(["ip", *command], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", namespace], check=False)
        for family in ("ip", "ip6"):
            subprocess.run(
                [*inside, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}tables=0"],
                check=False,
                stderr=subprocess.DEVNULL,
            )
        simulator = stack.enter_context(running_vcsim(root / "vcsim", inside=inside, host=_THERE))
        stack.enter_context(standing_in(root, simulator, inside, "direct"))
        values = {
            "vsphere": simulator.address,
            "vsphere-user": USER,
            "vsphere-password": PASSWORD,
            "thumbprint": simulator.thumbprint,
            "tenant": "ova",
            "image-store": "LocalDS_0",
            "bridge-network": "VM Network",
            "public-address": f"{_ITS}/24",
            "tls-ca": authority.certificate.read_text(),
            "tls-cert": certificate.read_text(),
            "tls-key": key.read_text(),
            "hostname": "appliance",
            **(more or {}),
        }
        log = root / "console.log"
        process = stack.enter_context(_booted(root, system, values, inside, log, firmware, by_cd))
        yield Appliance(namespace, authority, log, process), simulator


@contextlib.contextmanager
def _booted(
    root: Path, system: Path, values: Mapping[str, str], inside: list[str], log: Path, firmware: str, by_cd: bool
) -> Iterator["subprocess.Popen[bytes]"]:
    folder = root / "environment"
    folder.mkdir()
    environment = folder / "ovf-env.xml"
    environment.write_bytes(encode(values))
    data = root / "data.raw"
    if not data.exists():
        with data.open("wb") as file:
            os.truncate(file.fileno(), 8 << 30)
    # Debian's OVMF has no driver for VMware's controller, which ESXi's own UEFI has.
    controller = "virtio-scsi-pci" if firmware == "efi" else "pvscsi"
    command = [
        *inside,
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=multi",
        "-M",
        "pc",
        "-m",
        "2048",
        "-smp",
        "2",
        "-display",
        "none",
        "-chardev",
        f"socket,id=serial,path={root}/serial,server=on,wait=off,logfile={log}",
        "-serial",
        "chardev:serial",
        "-nodefaults",
        "-device",
        "VGA",
        "-device",
        f"{controller},id=scsi",
        "-drive",
        f"file={system},format=vmdk,if=none,id=system,readonly=on",
        "-device",
        "scsi-hd,drive=system,bus=scsi.0,bootindex=1",
        "-drive",
        f"file={data},format=raw,if=none,id=data",
        "-device",
        "scsi-hd,drive=data,bus=scsi.0,scsi-id=1",
        "-netdev",
        f"tap,id=public,ifname={_MANAGEMENT[:4]}-ova,script=no,downscript=no",
        "-device",
        "vmxnet3,netdev=public,mac=52:54:00:00:00:01",
        "-netdev",
        f"tap,id=bridge,ifname={_SWITCH[:4]}-ova,script=no,downscript=no",
        "-device",
        "vmxnet3,netdev=bridge,mac=52:54:00:00:00:02",
    ]
    if firmware == "efi":
        command += ["-bios", _OVMF]
    if by_cd:
        subprocess.run(
            ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", "OVF ENV", "-o", str(root / "env.iso"), str(folder)],
            check=True,
        )
        command += ["-drive", f"file={root / 'env.iso'},format=raw,media=cdrom,if=ide,readonly=on"]
    else:
        command += ["-fw_cfg", f"name=opt/vch/ovf-env,file={environment}"]
    with open(root / "qemu.log", "wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
