"""How the shares of a machine are mounted for virtiofsd, and how long a guest caches them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.hypervisor import Share
from appliance.hypervisor.qemu import shares
from appliance.hypervisor.qemu.shares import cache_seconds

# Stands for virtiofsd: writes the mounts that it would serve into the folder of the log.
_PROGRAM = """#!/bin/sh
grep /shares/ /proc/self/mountinfo > {0}/mounts
touch {0}/done
"""
# A host whose paths have a tmpfs below and a read-only mount.
_HOST = """
mount -t tmpfs t "$1/whole"; mkdir "$1/whole/a b" "$1/whole/ro"
mount -t tmpfs t "$1/whole/a b"; mount -t tmpfs t "$1/whole/ro"; mount -o remount,bind,ro "$1/whole/ro"
exec "$PYTHON" -c "$SERVE" "$1"
"""
_SERVE = """
import sys, time
from pathlib import Path
from appliance.hypervisor import Share
from appliance.hypervisor.qemu import shares
root = Path(sys.argv[1])
shares.find_virtiofsd = lambda: str(root / "program")
whole = root / "whole"
shares.serve(
    root, (Share(whole, True), Share(whole, False), Share(whole, False, recursive=False), Share(whole / "ro", False))
).close()
while not (root / "done").exists():
    time.sleep(0.01)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_flags_of_the_hosts_mounts_stay_and_read_only_holds_below(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    program = tmp_path / "program"
    program.write_text(_PROGRAM.format(tmp_path))
    program.chmod(0o755)
    subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _HOST, "host", tmp_path],
        env=os.environ | {"PYTHON": sys.executable, "SERVE": _SERVE},
        check=True,
        timeout=30,
    )
    found = {}
    for line in (tmp_path / "mounts").read_text().splitlines():
        target, flags = line.split()[4:6]
        found[target.partition("/shares/")[2]] = set(flags.split(",")) & {"ro", "rw", "nodev"}
    read_only, writable = {"ro", "nodev"}, {"rw", "nodev"}
    assert found == {
        "0": read_only,
        "0/a\\040b": read_only,
        "0/ro": read_only,
        "1": writable,
        "1/a\\040b": writable,
        "1/ro": read_only,
        "2": writable,
        "3": read_only,
    }


def test_a_guest_caches_only_if_it_may_cache_all_shares() -> None:
    strict, cached = Share(Path("/a"), False), Share(Path("/b"), False, cached=True)
    assert cache_seconds((cached, cached)) == 1
    assert cache_seconds((cached, strict)) == 0
    assert cache_seconds((strict,)) == 0


def _rules() -> list[list[str]]:
    """The rules of virtiofsd's option xattrmap: type, scope, name in the guest, name on the host."""
    (option,) = (word for word in shares._OPTIONS.split(",") if word.startswith("xattrmap="))
    words = option.removeprefix("xattrmap=").split(":")
    return [words[start : start + 4] for start in range(1, len(words) - 1, 5)]


def _on_host(name: str) -> str:
    """As virtiofsd's documentation describes the rules: the first that fits decides."""
    kind, _, _, prefix = next(rule for rule in _rules() if rule[1] in ("all", "client") and name.startswith(rule[2]))
    return {"prefix": prefix + name, "ok": name}[kind]


def _in_guest(name: str) -> str | None:
    kind, _, _, prefix = next(rule for rule in _rules() if rule[1] in ("all", "server") and name.startswith(rule[3]))
    return {"prefix": name.removeprefix(prefix), "ok": name, "bad": None}[kind]


@pytest.mark.parametrize(
    ("guest", "host"),
    [
        ("user.mine", "user.mine"),
        ("user.virtiofs.trusted.overlay.opaque", "user.virtiofs.trusted.overlay.opaque"),
        ("security.capability", "security.capability"),
        ("system.posix_acl_access", "system.posix_acl_access"),
        ("trusted.overlay.opaque", "user.vch.trusted.overlay.opaque"),
        # A vch inside a container.
        ("user.vch.trusted.overlay.opaque", "user.vch.user.vch.trusted.overlay.opaque"),
    ],
)
def test_names_of_extended_attributes(guest: str, host: str) -> None:
    assert (_on_host(guest), _in_guest(host)) == (host, guest)


def test_trusted_attributes_of_the_host_are_hidden() -> None:
    assert _in_guest("trusted.overlay.opaque") is None
