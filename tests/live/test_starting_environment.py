"""What a process sees at its start, in a container of vchd and in one of a real dockerd.

dockerd 20.10 with runc 1.1 runs on the test's host, with its kernel and cgroup v1. Where it differs from the newest moby or runc,
their source decides. `DIFFERENT` says why a fact differs, `NOT_COMPARED` which facts are a machine's own.
"""

import re
import subprocess

import pytest

from tests.live.daemon import PATIENCE

pytestmark = pytest.mark.live

# /proc/$$ is the process itself: cat and grep are its children.
PROBE = r"""
me=/proc/$$; umask=$(umask); pwd=$(pwd)
part() { echo "== $1"; }
part status; cat $me/status
part limits; cat $me/limits
part mountinfo; cat $me/mountinfo
part cgroup; cat $me/cgroup
part stat; cat $me/stat
part fd; ls -ln $me/fd; stat -L -c '%n %t:%T %a %u:%g' $me/fd/0 $me/fd/1 $me/fd/2
part files; ls -lan / /etc /dev /dev/pts /dev/shm /tmp
part text; grep -s '' /etc/hosts /etc/hostname /.dockerenv
part env; tr '\0' '\n' < $me/environ
part names; hostname; dnsdomainname; id
part net; ip -o addr; ip -o route
part proc; cd /proc; stat -c '%n %F %t:%T %a %u:%g' acpi asound bus fs interrupts irq kcore keys latency_stats sched_debug scsi sys \
  sysrq-trigger timer_list timer_stats 2>/dev/null
part sysctl; cd sys; grep -s '' net/ipv4/ip_* net/ipv4/ping* net/ipv6/conf/eth0/disable_ipv6 kernel/msg* kernel/sem kernel/shm* \
  fs/mqueue/*
part small; cd $me; grep -s '' attr/current coredump_filter gid_map loginuid oom_score_adj personality sessionid setgroups \
  timens_offsets timerslack_ns uid_map
part shell; echo "umask $umask"; echo "pwd $pwd"
part end
"""

# Options of the containers: the privileged container has the first, too. The second is all that those are not: a user, a terminal, limits.
PLAIN = ("--hostname", "box")
OTHER = (
    *(
        "-t",
        "--init",
        "--network",
        "none",
        "--hostname",
        "web.example.org",
        "-u",
        "7:8",
        "--group-add",
        "9",
        "-w",
        "/made/up",
    ),
    *(
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/var:mode=700,size=1m",
        "--tmpfs",
        "/new",
        "--shm-size",
        "1m",
        "-e",
        "A=b",
    ),
    *(
        "--cap-drop",
        "CHOWN",
        "--security-opt",
        "no-new-privileges",
        "--oom-score-adj",
        "5",
        "--ulimit",
        "nofile=100:200",
    ),
    *("--sysctl", "kernel.msgmax=9000"),
)
EXEC = ("-t", "-u", "7", "-e", "A=b", "-w", "/tmp")

_KERNEL = "the kernel's, or what it knows of the machine"
_NUMBERS = "numbers that count processes, memory or time"
_OWN = "each daemon has its own disks, networks and paths"
_HOST = "dockerd inherits these limits from the program that started it; tests/live/test_run.py asserts those of vch"
# Regular expressions of facts that depend on the machine or the run.
NOT_COMPARED = {
    r"status (Vm|Rss|Huge|Cpus|Mems|Spec|THP|untag|Kthread|x86).*": _KERNEL,
    r"status (SigQ|FDSize|.*ctxt_switches)": _NUMBERS,
    r"status State": "the shell waits for cat, or does not yet wait",
    # With --init the program is not the first process.
    r"status (Pid|Tgid|NStgid|NSpid|NSpgid|NSsid)": _NUMBERS,
    r"limit (pending signals|processes|open files|core file size|locked memory|msgqueue size|stack size)": _HOST,
    r"mount options (/|/etc/.*|/sbin/.*)": _OWN,
    r"file (/bin|/proc|/sys|/etc/resolv.conf|/etc/hosts)": _OWN,
    r"net (default|172|eth0 inet).*": _OWN,
}
_CGROUP = "cgroup v1 on the host, v2 in the guest, with a namespace as moby has it there (daemon/create_unix.go)"
_SHARED = "the NIC and its loopback: moby enables IPv6 on every loopback since 26.0; this host's kernel has none"
_MASKED = "masked in moby since 28.3 (daemon/pkg/oci/defaults.go)"
_GUEST = "the guest's kernel has it; the kernel of this host may not"
_RUNC = "runc limits the tmpfs over a masked directory since 1.4 (libcontainer/rootfs_linux.go, maskDir)"
# Names of facts as regular expressions, and why they differ.
DIFFERENT = {
    r"cgroup|mount (options )?/sys/fs/cgroup.*": _CGROUP,
    r"mount /": "the host's dockerd may propagate mounts into a container; nothing outside of the VM could",
    r"net lo inet6": _SHARED,
    r"file /var": "the option mode wins over the mode of the directory below, as in runc since 1.2",
    r"text /etc/hosts": "fe00:: and ff00:: are written without the zero, as moby does since 28.0 (etchosts.go)",
    r"(mount|mount options|proc) (/proc/)?interrupts": _MASKED,
    r"(mount|mount options|proc|file) (/proc/|/dev/)?(kcore|core|sysrq-trigger|latency_stats|scsi|asound|sched_debug)": _GUEST,
    r"small attr/current": "no security module in the guest: the VM is the boundary",
    r"status Seccomp(_filters)?": "no default filter in the guest: the VM is the boundary",
    r"mount options /(proc/(acpi|scsi|asound)|sys/(firmware|devices/virtual/powercap))": _RUNC,
}
# Further facts of a privileged container.
PRIVILEGED = {
    r"status Cap(Prm|Eff|Bnd)": "dockerd 20.10 knows 38 of 41 capabilities; it can give those only that this host has (oracle.py)",
    r"file /dev/fuse": "the guest has the mode of udev's rules; this host may have no udev",
    r"file /dev/autofs": "the guest's kernel has autofs as a module, and kmod lists its node with mode 600",
    r"file /dev/(cpu_dma_latency|userfaultfd|vga_arbiter)": "each kernel gives these devices numbers when it boots",
}


def run(host: str, *arguments: str) -> str:
    """The output of a docker command that must succeed."""
    command = ["docker", "-H", f"unix://{host}", *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, f"{arguments[:2]}: {done.stdout[-2000:]}{done.stderr}"
    return done.stdout


def probe(host: str) -> dict[str, str]:
    """Facts of a first process, of an exec in its container, of a privileged first process, and of one with many options."""
    outputs = {}
    run(host, "run", "-d", "--name", "starts", *PLAIN, "busybox", "sh", "-c", f"{PROBE}exec sleep 1000")
    try:
        outputs["exec"] = run(host, "exec", "starts", "sh", "-c", PROBE)
        outputs["exec as a user"] = run(host, "exec", *EXEC, "starts", "sh", "-c", PROBE)
        follower = subprocess.Popen(
            ["docker", "-H", f"unix://{host}", "logs", "-f", "starts"], stdout=subprocess.PIPE, text=True
        )
        with follower:
            assert follower.stdout is not None
            outputs["plain"] = "".join(iter(follower.stdout.readline, "== end\n"))
            follower.kill()
    finally:
        run(host, "rm", "-f", "starts")
    outputs["privileged"] = run(host, "run", "--rm", "--privileged", *PLAIN, "busybox", "sh", "-c", PROBE)
    outputs["other"] = run(host, "run", "--rm", *OTHER, "busybox", "sh", "-c", PROBE)
    return {f"{case}: {name}": value for case, output in outputs.items() for name, value in facts(output).items()}


def facts(output: str) -> dict[str, str]:
    """What a probe printed as {name of the fact: value}, without what differs from run to run."""
    parts = dict(re.findall(r"^== (\w+)\n(.*?)(?=^== |\Z)", output.replace("\r\n", "\n"), re.M | re.S))
    found: dict[str, str] = {}
    for line in parts["status"].splitlines():
        name, _, value = line.partition(":")
        if name == "SigIgn":
            # Signals 32 and 33 are glibc's own. A container of dockerd inherits them from the program that started dockerd.
            value = f"{int(value, 16) & ~(3 << 31):016x}"
        found[f"status {name}"] = " ".join(value.split())
    for line in parts["limits"].splitlines()[1:]:
        found[f"limit {line[4:25].strip()}"] = " ".join(line[25:].split())
    for line in parts["mountinfo"].splitlines():
        before, _, after = line.partition(" - ")
        target, *options = before.split()[4:]
        kind, source, data = after.split(" ", 2)
        if target.startswith(("/etc/", "/sbin/")):
            # Bound from a disk of the daemon, so only whether the file is writable counts.
            options, kind, source = [options[0].partition(",")[0]], "", ""
        found[f"mount {target}"] = " ".join([*options, kind, source])
        found[f"mount options {target}"] = ",".join(sorted(set(data.split(",")) - {"rw", "ro", "inode64"}))
    found["cgroup"] = parts["cgroup"].strip()
    # Group and session, the latter's leader, terminal (136 << 8 is /dev/pts/0), the terminal's foreground group.
    _, _, *numbers = parts["stat"].rpartition(")")[2].split()[:6]
    found["session"] = " ".join(re.sub(r"^([2-9]|\d\d)$", "self", number) for number in numbers)
    for mode, owner, name, link in re.findall(r"^(\S+) +\d+ (\d+ +\d+) .*:\d\d (\d+) -> (.*)$", parts["fd"], re.M):
        found[f"fd {name}"] = f"{mode} {' '.join(owner.split())} {re.sub('[0-9]+]', ']', link)}"
    for name, value in re.findall(r"^/proc/\d+/fd/(\d) (.*)$", parts["fd"], re.M):
        found[f"stdio {name}"] = value
    directory = ""
    for line in parts["files"].splitlines():
        if line.startswith("/"):
            directory = line.rstrip(":/")
        elif file := re.match(r"(\S+) +\d+ (\d+) +(\d+) +(\d+, +\d+|\d+) \w+ +\d+ +\S+ (.*)", line):
            mode, user, group, size, name = file.groups()
            size = size if mode[0] in "-bc" else ""
            found[f"file {directory}/{name.partition(' -> ')[0]}"] = " ".join(
                f"{mode} {user}:{group} {size} {name.partition(' -> ')[2]}".split()
            )
    for line in parts["text"].splitlines():
        path, _, text = line.partition(":")
        found[f"text {path}"] = found.get(f"text {path}", "") + f"{' '.join(text.split())}\n"
    for line in parts["small"].splitlines():
        name, _, value = line.partition(":")
        found[f"small {name}"] = " ".join(value.split())
    for part in ("proc", "shell"):
        for line in parts[part].splitlines():
            name, _, value = line.partition(" ")
            found[f"{part} {name}"] = value
    found["env"] = parts["env"]
    found["names"] = parts["names"]
    for line in parts["net"].splitlines():
        text = re.sub(r"^\d+: |@if\d+|valid_lft.*|[\\]", "", line)
        found[f"net {' '.join(text.split()[:2])}"] = " ".join(text.split()[2:])
    for line in parts["sysctl"].splitlines():
        path, _, value = line.partition(":")
        found[f"sysctl {path}"] = " ".join(value.split())
    return found


def _matches(table: dict[str, str], fact: str) -> list[str]:
    case, _, name = fact.partition(": ")
    return [
        pattern
        for pattern in table
        if re.fullmatch(pattern, name) and (table is not PRIVILEGED or case == "privileged")
    ]


def _is_device_of_one(fact: str, ours: dict[str, str], theirs: dict[str, str]) -> bool:
    """Whether a device node in /dev exists on one side only: a privileged container has those of its kernel, and so of its machine."""
    return fact.startswith("privileged: file /dev/") and (fact in ours) != (fact in theirs)


def test_a_process_starts_as_in_docker(sockets: tuple[str, str]) -> None:
    ours, theirs = (probe(host) for host in sockets)
    tables = (NOT_COMPARED, DIFFERENT, PRIVILEGED)
    differing = [fact for fact in sorted(ours.keys() | theirs.keys()) if ours.get(fact) != theirs.get(fact)]
    unexpected = {
        fact: f"ours {ours.get(fact)!r}, theirs {theirs.get(fact)!r}"
        for fact in differing
        if not any(_matches(table, fact) for table in tables) and not _is_device_of_one(fact, ours, theirs)
    }
    assert not unexpected, "\n".join(f"{fact}: {found}" for fact, found in unexpected.items())
    # The tables name facts that exist.
    for table in tables:
        used = {pattern for fact in (*ours, *theirs) for pattern in _matches(table, fact)}
        assert used == table.keys()
