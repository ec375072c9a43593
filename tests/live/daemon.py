"""A real vchd for tests, and the docker CLI against it."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import stuck
from tests.live.images import busybox_archive

PATIENCE = 120
# VCH_TEST_FLAGS: flags for every vchd of a test run, as in "--vm-template off". VCH_TEST_HYPERVISOR: qemu or vsphere.
FLAGS = os.environ.get("VCH_TEST_FLAGS", "").split()
HYPERVISOR = os.environ.get("VCH_TEST_HYPERVISOR", "qemu")
# Whether each VM boots: without a template to clone, and on the stand-in for vSphere. Minutes go by on a busy host without KVM.
BOOTS = HYPERVISOR != "qemu" or "--vm-template off" in " ".join(FLAGS)
# For tests of what only VMs on this host have: files, taps, a bridge for each network.
on_qemu = pytest.mark.skipif(HYPERVISOR != "qemu", reason="concerns VMs on this host")


class Daemon:
    """One vchd with folders of its own. `start` and `kill` may be repeated: VMs outlive vchd.

    It has bridges, in a network namespace of its own; with `on_host` (and without the rights of root) user-mode networking on the
    host's loopback, so that it reaches what the test serves there. With `uid` it is a user's who has no rights at all.
    """

    def __init__(self, root: Path, *, on_host: bool = False, uid: int = 0) -> None:
        self.root = root
        self.uid = uid
        on_host = on_host or bool(uid)
        self.namespace = "" if on_host or os.geteuid() else f"vch-{secrets.token_hex(4)}"
        if self.namespace:
            subprocess.run(["ip", "netns", "add", self.namespace], check=True)
            self.run_inside("ip", "link", "set", "lo", "up")
        self.socket = root / "d.sock"
        self.host = f"unix://{self.socket}"
        self.log = root / "vchd.log"
        # Flags of each start.
        self.flags: list[str] = []
        # The tree whose vchd is started: another version's, or None for this one.
        self.source: Path | None = None
        # The module that is started, and what its environment has beside that of the test.
        self.module = "appliance"
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self, *flags: str) -> None:
        command = [
            *self.inside(),
            *self._as_user(),
            sys.executable,
            "-m",
            self.module,
            *(() if self.namespace or self.uid else ("--networking", "user")),
            "-H",
            self.host,
            "--data-root",
            str(self.root / "data"),
            "--exec-root",
            str(self.root / "exec"),
            "--accel",
            "tcg",
            *FLAGS,
            *self.flags,
            *flags,
        ]
        self.socket.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            env = os.environ | ({"HOME": str(self.root)} if self.uid else {}) | self.environment
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=self.source
            )
        deadline = time.monotonic() + 60
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"vchd did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def refusal(self, *flags: str) -> str:
        """The message with which vchd refuses these flags; never a traceback."""
        with pytest.raises(AssertionError, match="vchd did not start") as failed:
            self.start(*flags)
        self.log.unlink()
        assert "Traceback" not in str(failed.value)
        return str(failed.value)

    def inside(self) -> list[str]:
        """The prefix of a command that runs in the network namespace of vchd."""
        # `ip netns exec` would make a mount namespace, which does not see the mounts of tests.
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--"] if self.namespace else []

    def _as_user(self) -> list[str]:
        if not self.uid:
            return []
        return [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.uid}",
            "--clear-groups",
            "--bounding-set=-all",
            "--no-new-privs",
            "--",
        ]

    def run_inside(self, *command: str, timeout: float = PATIENCE, check: bool = True) -> str:
        """The output of a command that runs where vchd does."""
        done = subprocess.run([*self.inside(), *command], capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def close(self) -> None:
        """End vchd and every VM that it left. A traceback in its log fails the test: a failed task does not end vchd."""
        if self._process is not None and self._process.poll() is None:
            for container in self.docker("ps", "-aq").stdout.split():
                self.docker("rm", "-f", container)
            self.stop()
        for state in (self.root / "exec/machines").glob("*/machine.json"):
            pid = json.loads(state.read_text())["pid"]
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.namespace and not self._closed:
            subprocess.run(["ip", "netns", "delete", self.namespace], check=False)
        self._closed = True
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        assert "Traceback (most recent call last)" not in log, log[-8000:]

    def command(self, *arguments: str) -> list[str]:
        return ["docker", "-H", self.host, *arguments]

    def docker(
        self, *arguments: str, stdin: bytes | None = None, timeout: float = PATIENCE, check: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """Run the docker CLI to its end; text out."""
        try:
            done = subprocess.run(
                self.command(*arguments),
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            now = stuck.report(self.root, self.socket)
            raise AssertionError(f"{error}\n{error.stdout!r}\n{error.stderr!r}\n{now}\n{self._logs()}") from error
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )
        if check and result.returncode:
            said = f"docker {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}"
            raise AssertionError(f"{said}\nvchd: {self.log.read_text()[-4000:]}")
        return result

    def _logs(self) -> str:
        """The last lines of vchd, of a stand-in host and of the VMs' consoles."""
        files = [*self.root.glob("*.log"), *self.root.glob("**/console*")]
        return "\n".join(f"{file}: {file.read_text(errors='replace')[-4000:]}" for file in files if file.is_file())

    def shell(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A shell command in a new container: options, then the command."""
        *options, command = arguments
        return self.docker("run", "--rm", *options, "busybox", "sh", "-c", command)

    def vch(self, *arguments: str) -> str:
        """The output of the operator's CLI."""
        command = [sys.executable, "-c", "from appliance.cli.main import run; run()", *arguments, "-H", self.host]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    def must(self, *arguments: str, stdin: bytes | None = None) -> str:
        """The output of a docker command that must succeed."""
        return self.docker(*arguments, stdin=stdin, check=True).stdout

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """A raw request: the status, and the error's message or else the body."""
        command = [
            "curl",
            "-s",
            "--path-as-is",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
            "--unix-socket",
            str(self.socket),
        ]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        answer = subprocess.run([*command, f"http://d{path}"], capture_output=True, text=True, check=True).stdout
        text, _, code = answer.rpartition("\n")
        found = json.loads(text) if text.startswith("{") else {}
        return int(code), found.get("message", text)

    def wait_pool(self, count: int = 1) -> None:
        """Return when `count` VMs wait in the pool; at once if the flags switch the pool off."""
        if "off" in FLAGS or "0" in FLAGS:
            return
        deadline = time.monotonic() + PATIENCE
        while not any(
            int(value) >= count
            for key, value in json.loads(self.must("info", "--format", "{{json .DriverStatus}}"))
            if key == "Machines waiting"
        ):
            assert time.monotonic() < deadline, "the pool is not filled"
            time.sleep(0.1)

    def load_busybox(self) -> None:
        self.must("load", stdin=busybox_archive())


@contextlib.contextmanager
def running_daemon(root: Path, *flags: str, on_host: bool = False) -> Iterator[Daemon]:
    """A started vchd with busybox loaded."""
    if HYPERVISOR == "vsphere":
        from tests.live.vsphere.daemon import running_vsphere

        with running_vsphere(root, *flags) as vsphere:
            yield vsphere.daemon
        return
    daemon = Daemon(root, on_host=on_host)
    # A restart keeps the flags.
    daemon.flags = [*flags]
    daemon.start()
    try:
        daemon.load_busybox()
        yield daemon
    finally:
        daemon.close()
