"""`vch`, as an operator runs it, on VMware's simulator: from nothing to an appliance that runs containers, and to nothing again."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import __version__
from build.ova.image import NAME
from build.ova.pack import pack
from tests.live.certificates import Authority
from tests.live.images import busybox_archive
from tests.live.vsphere.appliancebody import BROKEN
from tests.live.vsphere.daemon import hosts_beside, standing_in
from tests.live.vsphere.faultproxy import FaultProxy, running_proxy
from tests.live.vsphere.simulator import PASSWORD, USER, Place, Simulator, running_vcsim
from tests.live.waiting import until

pytestmark = pytest.mark.live
_THERE = "192.0.2.2"


class Operator:
    """An operator who runs `vch` and `docker` in the network of vSphere."""

    def __init__(self, root: Path, inside: list[str], simulator: Simulator) -> None:
        self.root = root
        self.simulator = simulator
        # The server that `vch` talks to: the simulator, or a proxy in front of it.
        self.place: Place = simulator
        self._inside = inside
        self.ova = self.package(__version__)

    def package(self, version: str) -> Path:
        """An OVA like the real one, but with random bytes as its system disk, which the simulator discards."""
        system, target = self.root / "system.raw", self.root / f"{version}.ova"
        system.write_bytes(os.urandom(1 << 20))
        pack(NAME, system, self.root, target, version=version)
        return target

    def vch(self, *arguments: str, status: int = 0, password: str = PASSWORD, thumbprint: str | None = None) -> str:
        """Run `vch`, check its exit status, and return stdout and stderr."""
        done = self._run(*arguments, password=password, thumbprint=thumbprint)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        # No output contains a secret.
        assert password not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> dict[str, object]:
        done = self._run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def _run(
        self, *arguments: str, password: str = PASSWORD, thumbprint: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        known = ["--thumbprint", self.place.thumbprint if thumbprint is None else thumbprint]
        command = [
            *self._inside,
            sys.executable,
            "-c",
            "from appliance.cli.main import run; run()",
            *arguments,
            "--target",
            self.place.address,
            "--user",
            USER,
            *(known if known[1] else ()),
        ]
        environment = {**os.environ, "VCH_PASSWORD": password, "PYTHONPATH": str(Path(__file__).parents[3])}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=200, cwd=self.root, env=environment, check=False
        )

    def create(self, *more: str, status: int = 0, **known: str) -> str:
        return self.vch(
            "create",
            "--ova",
            str(self.ova),
            "--name",
            "prod",
            "--image-store",
            "LocalDS_0",
            "--volume-store",
            "other=LocalDS_1",
            "--bridge-network",
            "DC0_DVPG0",
            "--public-network",
            "VM Network",
            "--public-address",
            "192.0.2.1/24",
            "--container-network",
            _LAN,
            "--container-network",
            "name=leases,portgroup=VM Network",
            *more,
            status=status,
            **known,
        )

    def docker(self, *arguments: str, known: bool = True) -> str:
        """Run the docker CLI, and return its output. With `known` the environment names the appliance, else the arguments do."""
        environment = dict(os.environ)
        if known:
            lines = (self.root / "prod/prod.env").read_text().splitlines()
            environment |= dict(line.split("=", 1) for line in lines)
        done = subprocess.run(
            [*self._inside, "docker", *arguments],
            capture_output=True,
            text=True,
            timeout=200,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def before(self) -> Iterator[FaultProxy]:
        """A fault proxy between `vch` and vSphere, as long as the block lasts."""
        there = self._inside[1].removeprefix("--net=/run/netns/")
        with running_proxy(self.simulator, self.root / "proxy", there) as proxy:
            self.place = proxy
            try:
                yield proxy
            finally:
                self.place = self.simulator

    def python(self, program: str, *arguments: str) -> None:
        """Run a Python program in the network namespace of vSphere."""
        subprocess.run([*self._inside, sys.executable, "-c", program, *arguments], check=True, timeout=60)

    def files(self) -> list[str]:
        """All files of the datastores, except those that the simulator leaves behind when it removes a snapshot."""
        found = (path for path in self.simulator.datastores.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.suffix not in (".vmsn", ".vmsd"))


@contextlib.contextmanager
def _operator(*flags: str) -> Iterator[Operator]:
    namespace = f"vch-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        root = Path(name)
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", namespace], check=False)
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        inside = stack.enter_context(hosts_beside(namespace))
        simulator = stack.enter_context(running_vcsim(root / "vcsim", "-ds", "2", *flags, inside=inside, host=_THERE))
        stack.enter_context(standing_in(root, simulator, inside, "direct", namespace))
        yield Operator(root, inside, simulator)


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    with _operator() as one:
        yield one


_LAN = (
    "name=lan,portgroup=VM Network,subnet=198.51.100.0/24,gateway=198.51.100.1,range=198.51.100.64/28,firewall=outbound"
)


def test_vch_checks_the_servers_thumbprint(operator: Operator) -> None:
    said = operator.vch("ls", status=3, thumbprint="")
    shown = ":".join(operator.simulator.thumbprint[place : place + 2] for place in range(0, 64, 2)).upper()
    assert f"--thumbprint {shown}" in said
    assert f", not {'00' * 32} as --thumbprint says" in operator.vch("ls", status=3, thumbprint="00" * 32)
    assert "Login failure" in operator.vch("ls", status=1, password="wrong-one")


def test_all_faults_are_reported_at_once_and_nothing_is_made(operator: Operator) -> None:
    before = operator.files()
    said = operator.vch(
        "create",
        "--ova",
        "nothing.ova",
        "--name",
        "not good",
        "--compute-resource",
        "nowhere",
        "--image-store",
        "no-store",
        "--volume-store",
        "v=no-volumes",
        "--bridge-network",
        "no-bridge",
        "--public-network",
        "no-public",
        "--dns",
        "not-an-ip",
        "--bip",
        "300.1.1.1/24",
        "--client-address",
        "10.0.0.1/24",
        "--tls-allow",
        "everything:CN=x",
        "--ops-user",
        "nobody",
        "--container-network",
        "name=lan,portgroup=no-lan",
        "--container-network",
        "name=odd,portgroup=VM Network,firewall=ajar",
        status=3,
    )
    for setting in (
        "--ova",
        "--name",
        "--compute-resource",
        "--image-store",
        "--volume-store",
        "--bridge-network",
        "--public-network",
        "--dns",
        "--bip",
        "--client-address",
        "--tls-allow",
        "--tls-cname",
        "--ops-user",
        "--container-network lan",
        "--container-network: name=odd",
    ):
        assert f"  {setting}" in said, f"{setting}\n{said}"
    assert "LocalDS_0, LocalDS_1" in said
    assert "firewall=ajar is not one of closed, outbound, peers, published, open" in said
    assert operator.vch("ls", "-q").strip() == ""
    assert operator.files() == before
    assert not (operator.root / "not good").exists()


def test_the_life_of_an_appliance(operator: Operator) -> None:
    said = operator.create(status=3)
    assert said.count("blocks serial ports to 2377/tcp") == 2
    assert "vch update firewall --allow" in said
    assert operator.vch("update", "firewall", "--allow").count("serial ports are allowed") == 2
    assert "can be deployed" in operator.create("--dry-run")
    assert operator.vch("ls", "-q").strip() == ""

    before = operator.files()
    said = operator.create()
    assert "DOCKER_HOST=tcp://192.0.2.1:2376 DOCKER_TLS_VERIFY=1" in said
    assert "vsphere" in operator.docker("info")
    archive = operator.root / "busybox.tar"
    archive.write_bytes(busybox_archive())
    operator.docker("load", "-i", str(archive))
    operator.docker(
        "run",
        "-d",
        "--name",
        "stays",
        "-v",
        "kept:/data",
        "busybox",
        "sh",
        "-c",
        "echo here > /data/file; sync; sleep 1000",
    )

    inspected = operator.json("inspect", "prod")
    assert inspected["docker_host"] == "tcp://192.0.2.1:2376"
    assert inspected["containers"] == {"all": 1, "running": 1}
    assert "s3cret" not in json.dumps(inspected)
    conf = operator.vch("inspect", "prod", "--conf")
    assert "--bridge-network DC0_DVPG0" in conf
    assert f"--container-network '{_LAN}' --container-network 'name=leases,portgroup=VM Network'" in conf
    assert (
        operator.docker("network", "inspect", "lan", "-f", '{{.Driver}} {{index .Options "vch.network"}}')
        == "external VM Network\n"
    )
    in_use = operator.create("--container-network", "name=mine,portgroup=DC0_DVPG0", "--name", "third", status=3)
    assert "DC0_DVPG0 is the bridge network" in in_use
    assert "1 of 1" in operator.vch("ls")

    again = operator.create(status=3)
    assert "there is an appliance prod" in again
    other = operator.create("--name", "second", status=3)
    assert "DC0_DVPG0 is the bridge network of appliance prod" in other

    _logged(operator)
    _debugged(operator)
    _configured(operator)
    _upgraded(operator)

    assert "stays" not in operator.vch("delete", "nobody", status=4)
    assert "containers that are running" in operator.vch("delete", "prod", status=3)
    said = operator.vch("delete", "prod", "--force")
    assert "kept.disk.vmdk" in said
    assert operator.vch("ls", "-q").strip() == ""
    left = [file for file in operator.files() if file not in before]
    assert all("kept.disk" in file for file in left), left

    # The next appliance of the same tenant takes over the volume.
    operator.create()
    operator.docker("load", "-i", str(archive))
    assert operator.docker("run", "--rm", "-v", "kept:/data", "busybox", "cat", "/data/file") == "here\n"
    operator.vch("delete", "prod", "--force", "--volumes")
    assert operator.files() == before


def _stays(operator: Operator) -> str:
    """State and start time of the container `stays`. No command on its appliance may change them."""
    return operator.docker("inspect", "-f", "{{.State.Running}} {{.State.StartedAt}} {{.RestartCount}}", "stays")


def _logged(operator: Operator) -> None:
    operator.docker(
        "run",
        "--name",
        "talks",
        "-e",
        "TOKEN=hunter2",
        "busybox",
        "sh",
        "-c",
        "echo to be found; echo password=hunter2",
    )
    target = operator.root / "logs.tar.gz"
    found = operator.json("logs", "prod", "--out", str(target))
    assert "warnings" not in found
    assert target.stat().st_mode & 0o777 == 0o600
    texts = {}
    with tarfile.open(target) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            texts[member.name.split("/", 1)[1]] = file.read().decode()
    (log,) = (
        text for name, text in texts.items() if name.startswith("containers/talks-") and name.endswith("/log.txt")
    )
    assert "to be found" in log
    assert "API listens on" in texts["vchd/log.txt"]
    assert "accept" in texts["vchd/tasks.txt"]
    # The simulator returns ten events at most, and which ones of the appliance and its containers differs from run to run.
    assert any(name in texts["vsphere/events.txt"] for name in ("prod", "stays-", "talks-"))
    assert "VirtualMachine.powerOn" in texts["vsphere/tasks.txt"]
    everything = "".join(texts.values())
    for secret in ("hunter2", PASSWORD, "PRIVATE KEY"):
        assert secret not in everything
    operator.docker("rm", "talks")


_IS_SERVED = """
import socket, sys, time
for _ in range(50):
    try:
        socket.create_connection(("192.0.2.1", 22), 1).close()
    except OSError:
        sys.exit(0)
    time.sleep(0.2)
sys.exit("SSH is still there")
"""


def _debugged(operator: Operator) -> None:
    assert "not between 60 and 86400 seconds" in operator.vch("debug", "prod", "--for", "5", status=2)
    assert "--authorized-key /etc/hostname" in operator.vch(
        "debug", "prod", "--authorized-key", "/etc/hostname", status=2
    )
    said = operator.vch("debug", "prod")
    assert "ssh -i prod/debug_key root@192.0.2.1" in said
    assert "ecdsa-sha2-nistp256" in said
    assert (operator.root / "prod/debug_key").stat().st_mode & 0o777 == 0o600
    assert operator.vch("debug", "prod", "--run", "echo over there; exit 7", status=7).startswith("over there\n")
    operator.vch("debug", "prod", "--close")
    operator.python(_IS_SERVED)


def _configured(operator: Operator) -> None:
    began = _stays(operator)
    assert "no option changes a setting" in operator.vch("configure", "prod", status=2)
    said = operator.vch("configure", "prod", "--dns", "nonsense", "--bip", "1.2.3.4/99", status=3)
    assert "--dns" in said
    assert "--bip" in said
    assert "nothing was changed" in operator.vch("configure", "prod", "--label", "stage=test", "--dry-run")
    operator.vch("configure", "prod", "--label", "stage=test", "--dns", "192.0.2.53")
    assert operator.docker("info", "-f", "{{json .Labels}}") == '["stage=test"]\n'
    assert _stays(operator) == began
    # `vch` cannot check this setting beforehand: it notices when the appliance does not come up.
    said = operator.vch("configure", "prod", "--volume-store", "v=No-Such-Store", "--timeout", "6", status=5)
    assert "the old settings are back" in said
    operator.vch("configure", "prod", "--reset", "labels")
    assert operator.docker("info", "-f", "{{json .Labels}}") == "[]\n"
    assert "dns: 192.0.2.53" in operator.vch("inspect", "prod")
    assert _stays(operator) == began


def _upgraded(operator: Operator) -> None:
    began = _stays(operator)
    assert "has no snapshot to roll back to" in operator.vch("upgrade", "prod", "--rollback", status=3)
    assert "already has the version" in operator.vch("upgrade", "prod", "--ova", str(operator.ova), status=3)
    newer, broken = operator.package("7.0"), operator.package(f"7.1-{BROKEN}")
    before = operator.files()
    assert f"now has the version 7.0 (before: {__version__})" in operator.vch("upgrade", "prod", "--ova", str(newer))
    assert operator.json("inspect", "prod")["version"] == "7.0"
    assert "system-7.0" in " ".join(file for file in operator.files() if file not in before)
    assert f"has the version {__version__} again" in operator.vch("upgrade", "prod", "--rollback")
    assert operator.json("inspect", "prod")["version"] == __version__
    assert operator.files() == before
    operator.vch("upgrade", "prod", "--ova", str(newer))
    operator.vch("upgrade", "prod", "--commit")
    assert "has no snapshot to roll back to" in operator.vch("upgrade", "prod", "--rollback", status=3)
    said = operator.vch("upgrade", "prod", "--ova", str(broken), "--timeout", "6", status=5)
    assert "it has the version 7.0 again" in said
    assert operator.json("inspect", "prod")["version"] == "7.0"
    assert operator.vch("ls", "-q") == "prod\n"
    assert _stays(operator) == began


_GRANTED = """
manager = content.authorizationManager
(role,) = (one for one in manager.roleList if one.name.startswith("vch"))
(datacenter,) = content.rootFolder.childEntity
(given,) = (one for one in manager.RetrieveEntityPermissions(datacenter, False) if one.roleId == role.roleId)
assert given.propagate and not given.group and given.principal == user, given
for privilege in ("VirtualMachine.Inventory.Create", "VirtualMachine.Interact.Suspend", "Datastore.FileManagement"):
    assert privilege in role.privilege, role
assert "Host.Config.Network" not in role.privilege, role
"""


def test_an_account_with_too_few_rights(operator: Operator) -> None:
    operator.vch("update", "firewall", "--allow")
    with operator.before() as proxy:
        # The simulator grants every privilege to every account.
        proxy.rewrites = [
            ("HasUserPrivilegeOnEntities", b"<isGranted>true</isGranted>", b"<isGranted>false</isGranted>")
        ]
        said = operator.create(status=3)
        assert f"--ops-user: {USER} lacks on DC0: Datastore.AllocateSpace, Datastore.Browse," in said
        assert "--ops-grant-perms gives what is needed, with an administrator's account" in said
        assert operator.vch("ls", "-q").strip() == ""
        assert "no account to give the privileges to" in operator.create("--ops-grant-perms", status=3)
    secret = operator.root / "ops"
    secret.write_text(PASSWORD)
    said = operator.create("--ops-user", USER, "--ops-password-file", str(secret), "--ops-grant-perms")
    assert f"Giving {USER} the privileges that vchd needs" in said
    operator.python(_LOG_IN + _GRANTED, operator.simulator.address, USER, PASSWORD)
    assert "vsphere" in operator.docker("info")
    operator.vch("delete", "prod", "--force")


_GROUPED = """
machines = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True).view
view = content.viewManager.CreateContainerView(content.rootFolder, [vim.ClusterComputeResource], True)
groups = {one.name: len([vm for vm in one.vm if vm in machines]) for one in view.view[0].configurationEx.group}
assert groups.get("pinned") == count, groups
"""


def test_the_pool_and_drs_groups(operator: Operator) -> None:
    def grouped(count: int | None) -> None:
        program = _LOG_IN + f"count = {count}" + _GROUPED
        operator.python(program, operator.simulator.address, USER, PASSWORD)

    operator.vch("update", "firewall", "--allow")
    wrong = operator.create(
        "--storage-quota", "much", "--syslog-address", "there", "--container-pool", "many", status=3
    )
    for setting in ("--storage-quota", "--syslog-address", "--container-pool"):
        assert f"  {setting}" in wrong
    operator.create("--affinity-vm-group", "pinned", "--storage-quota", "100g", "--container-pool", "1")

    def info() -> str:
        return operator.docker("info", "-f", "{{json .DriverStatus}}")

    until(lambda: '["Machines waiting","1"]' in info(), 120)
    assert '["Storage quota","0 B of 100 GiB"]' in info()
    # The appliance, the clones' parent, and a clone: none of them is a container.
    grouped(3)
    assert "0 of 0" in operator.vch("ls")
    assert "--affinity-vm-group pinned" in operator.vch("inspect", "prod", "--conf").replace(
        "--vm-group", "--affinity-vm-group"
    )
    operator.vch("delete", "prod")
    grouped(None)
    assert operator.vch("ls", "-q").strip() == ""


_REGISTERED = """
found = content.extensionManager.FindExtension("vch.prod")
assert (found is not None) == (user_wants == "there"), found
"""


def test_an_appliance_that_needs_no_password(operator: Operator) -> None:
    operator.vch("update", "firewall", "--allow")
    assert "replaces the account somebody" in operator.create("--ops-extension", "--ops-user", "somebody", status=3)
    # The simulator logs extensions in at its main port, so the appliance must not use the tunnel port.
    operator.create("--ops-extension", "--tunnel-port", "0")
    assert "vsphere" in operator.docker("info")
    properties = operator.json("inspect", "prod")["properties"]
    assert isinstance(properties, dict)
    assert properties["vsphere-login"] == "extension"
    assert "vsphere-user" not in properties

    def registered(wanted: str) -> None:
        program = _LOG_IN + f"user_wants = {wanted!r}" + _REGISTERED
        operator.python(program, operator.simulator.address, USER, PASSWORD)

    registered("there")
    # The appliance stores no password: it logs in with its certificate, also after a reboot.
    (body,) = (
        file.parents[2]
        for file in operator.root.glob("bodies/*/run/appliance/vchd.json")
        if "vch.prod" in file.read_text()
    )
    for file in (*(body / "run/appliance").iterdir(), *(body / "data/appliance").iterdir()):
        assert not file.is_file() or PASSWORD not in file.read_text(), file
    operator.vch("configure", "prod", "--label", "stage=test")
    assert operator.docker("info", "-f", "{{json .Labels}}") == '["stage=test"]\n'
    # Change the login to an account, and back to a certificate.
    secret = operator.root / "ops"
    secret.write_text(PASSWORD)
    operator.vch("configure", "prod", "--ops-user", USER, "--ops-password-file", str(secret))
    operator.vch("configure", "prod", "--ops-extension")
    assert "vsphere" in operator.docker("info")
    operator.vch("delete", "prod", "--force")
    registered("gone")


def test_certificates_of_others(operator: Operator) -> None:
    operator.vch("update", "firewall", "--allow")
    authority = Authority(operator.root / "theirs")
    (certificate, key), (mine, my_key) = authority.sign("/CN=docker", "192.0.2.1"), authority.sign("/CN=me")
    given = ("--tls-ca", str(authority.certificate), "--tls-server-cert", str(certificate), "--cert-path", "none")
    assert "certificate and key belong together" in operator.create(*given, status=3)
    assert "the key is not the certificate's" in operator.create(*given, "--tls-server-key", str(my_key), status=3)
    said = operator.create(*given, "--tls-server-key", str(key))
    assert "DOCKER_HOST=tcp://192.0.2.1:2376 DOCKER_TLS_VERIFY=1\n" in said
    assert not (operator.root / "none").exists()
    them = ("--tlsverify", "--tlscacert", str(authority.certificate), "-H", "tcp://192.0.2.1:2376")
    assert "vsphere" in operator.docker(*them, "--tlscert", str(mine), "--tlskey", str(my_key), "info", known=False)
    operator.vch("delete", "prod", "--force")


def test_an_open_api_is_warned_of(operator: Operator) -> None:
    operator.vch("update", "firewall", "--allow")
    said = operator.create("--no-tlsverify", "--cert-path", "open")
    assert "WARNING --no-tlsverify: EVERY CLIENT THAT REACHES THE API HAS FULL ACCESS" in said
    assert "docker --tls info" in said
    assert "vsphere" in operator.docker(
        "--tls", "--tlscacert", str(operator.root / "open/ca.pem"), "-H", "tcp://192.0.2.1:2376", "info", known=False
    )
    assert "--no-tlsverify" in operator.vch("inspect", "prod", "--conf")
    operator.vch("delete", "prod", "--force")


def test_an_appliance_that_cannot_be_uploaded_leaves_nothing(operator: Operator) -> None:
    operator.vch("update", "firewall", "--allow")
    before = operator.files()
    torn = operator.root / "torn.ova"
    torn.write_bytes(operator.ova.read_bytes()[:-40_000])
    assert "--ova" in operator.create("--ova", str(torn), status=3)
    assert operator.files() == before


_LOG_IN = """
import ssl, sys
from pyVim.connect import SmartConnect
from pyVmomi import vim
address, user, password = sys.argv[1:]
host, port = address.split(":")
content = SmartConnect(host=host, port=int(port), user=user, pwd=password, sslContext=ssl._create_unverified_context()).content
"""
_PORTGROUP = (
    _LOG_IN
    + """
network = content.rootFolder.childEntity[0].hostFolder.childEntity[0].host[0].configManager.networkSystem
network.AddPortGroup(vim.host.PortGroup.Specification(name="Containers", vlanId=7, vswitchName="vSwitch0", policy=vim.host.NetworkPolicy()))
"""
)


_NO_LICENCE = (
    _LOG_IN
    + """
for one in content.licenseManager.licenses:
    content.licenseManager.RemoveLicense(one.licenseKey)
"""
)


def test_a_lone_esxi() -> None:
    with _operator("-esx") as operator:
        operator.python(_PORTGROUP, operator.simulator.address, USER, PASSWORD)
        operator.vch("update", "firewall", "--allow")
        arguments = (
            "create",
            "--ova",
            str(operator.ova),
            "--name",
            "prod",
            "--image-store",
            "LocalDS_0",
            "--bridge-network",
            "Containers",
            "--public-network",
            "VM Network",
            "--tls-cname",
            "docker.example",
        )
        said = operator.vch(*arguments)
        # The address comes from DHCP, and VMware Tools report it.
        assert "DOCKER_HOST=tcp://docker.example:2376" in said
        assert operator.json("inspect", "prod")["docker_host"] == "tcp://192.0.2.1:2376"
        operator.vch("delete", "prod", "--force")
        assert operator.vch("ls", "-q").strip() == ""
        operator.python(_NO_LICENCE, operator.simulator.address, USER, PASSWORD)
        assert "no licence has the feature serialuri" in operator.vch(*arguments, status=3)
