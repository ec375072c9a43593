"""`make bench`: measures vchd and a real dockerd in turns, and prints medians and ratios. It asserts nothing.

On a shared machine only the ratios of one run are reliable. Without root or without docker.io only vchd is measured.
"""

import concurrent.futures
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench_builds import compare_builds, compare_builds_in_a_machine
from tests.bench_sizes import compare_sizes
from tests.bench_sockets import compare_sockets
from tests.live.daemon import Daemon
from tests.live.images import busybox_archive
from tests.live.oracle import dockerd
from tests.live.registry import Pusher, image_manifest, real_registry

ROUNDS = int(os.environ.get("VCH_BENCH_ROUNDS", "15"))
MEGABYTE = 1_000_000


class Target:
    """A daemon to measure. `settle` returns when its work in the background is done."""

    def __init__(self, name: str, host: str, settle: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.settle = settle
        self.host = host
        self.path = host.removeprefix("unix://")

    def docker(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        return subprocess.run(
            ["docker", "-H", self.host, *arguments], input=stdin, capture_output=True, check=True, timeout=300
        ).stdout

    def request(self, connection: socket.socket, path: str) -> int:
        """Send a GET on an open connection; return the size of the answer in bytes."""
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 20)
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in fields:
            left = int(fields[b"content-length"]) - len(body)
            while left > 0:
                left -= len(connection.recv(1 << 20))
        else:
            while not body.endswith(b"0\r\n\r\n"):
                body += connection.recv(1 << 20)
        return len(data)

    def rate(self, path: str, connections: int, seconds: float = 1.0) -> float:
        """How many requests per second the daemon answers."""

        def one(_: int) -> int:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self.path)
                count = 0
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    self.request(connection, path)
                    count += 1
                return count

        with concurrent.futures.ThreadPoolExecutor(connections) as pool:
            return sum(pool.map(one, range(connections))) / seconds


@contextlib.contextmanager
def other_target(root: Path, *, bridge: bool = True) -> Iterator[Target | None]:
    """A real dockerd; None where it cannot run containers."""
    with dockerd(root, bridge=bridge) as path:
        if path is None:
            yield None
            return
        target = Target("dockerd", f"unix://{path}")
        try:
            target.docker("load", stdin=busybox_archive())
            target.docker("run", "--rm", "busybox", "true")
        except subprocess.CalledProcessError as error:
            print(f"dockerd cannot run containers here: {error.stderr.decode()[-300:]}")
            yield None
        else:
            yield target


def timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return (time.monotonic() - started) * 1000


def first_byte(target: Target) -> float:
    """The time from `docker start` to the first byte of the container's output, in ms."""
    target.docker("create", "--name", "bench-first", "busybox", "echo", "x")
    try:
        started = time.monotonic()
        with subprocess.Popen(
            ["docker", "-H", target.host, "start", "-a", "bench-first"], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            elapsed = time.monotonic() - started
        return elapsed * 1000
    finally:
        target.docker("rm", "-f", "bench-first")


def run_true(target: Target) -> float:
    return timed(lambda: target.docker("run", "--rm", "busybox", "true"))


def run_true_alone(target: Target) -> float:
    return timed(lambda: target.docker("run", "--rm", "--network", "none", "busybox", "true"))


def ten_at_once(target: Target) -> float:
    def all_of_them() -> None:
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda _: target.docker("run", "--rm", "busybox", "true"), range(10)))

    return timed(all_of_them)


def exec_true(target: Target) -> float:
    return timed(lambda: target.docker("exec", "bench-exec", "true"))


def create(target: Target) -> float:
    elapsed = timed(lambda: target.docker("create", "--name", "bench-create", "busybox", "true"))
    target.docker("rm", "bench-create")
    return elapsed


def attach_out(target: Target) -> float:
    script = "dd if=/dev/zero bs=64k count=640 2>/dev/null"
    target.docker("create", "--name", "bench-out", "busybox", "sh", "-c", f"echo; {script}")
    process = subprocess.Popen(["docker", "-H", target.host, "start", "-a", "bench-out"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    started = time.monotonic()
    size = 0
    while piece := process.stdout.read(1 << 20):
        size += len(piece)
    elapsed = time.monotonic() - started
    process.wait()
    target.docker("rm", "bench-out")
    return size / MEGABYTE / elapsed


def attach_in(target: Target) -> float:
    """Throughput of stdin into `wc -c` in MB/s, once the process runs."""
    target.docker("create", "-i", "--name", "bench-in", "busybox", "sh", "-c", "echo; wc -c")
    command = ["docker", "-H", target.host, "start", "-ai", "bench-in"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    started = time.monotonic()
    for _ in range(40):
        process.stdin.write(bytes(1 << 20))
    process.stdin.close()
    assert int(process.stdout.read()) == 40 << 20
    elapsed = time.monotonic() - started
    process.wait()
    target.docker("rm", "bench-in")
    return (40 << 20) / MEGABYTE / elapsed


def push_image(host: str, repository: str, layers: list[bytes]) -> str:
    """Push an image of these layers; return its name."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]},
        }
    ).encode()
    pusher = Pusher(host, f"bench/{repository}")
    pusher.manifest("v1", image_manifest(config, [gzip.compress(one, 6) for one in layers], pusher.blob))
    return f"{host}/bench/{repository}:v1"


def layers_of(count: int, files: int) -> list[bytes]:
    """`count` layers of `files` files of 20 kB. Half of each file compresses, as in programs: 1000 files are 10 MB compressed."""
    layers = []
    for number in range(count):
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            for file in range(files):
                member = tarfile.TarInfo(f"layer{number}/file{file}")
                content = os.urandom(10_000) + bytes(range(100)) * 100
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        layers.append(layer.getvalue())
    return layers


def images(root: Path) -> None:
    """Measure pull, push, and the disk space of images. Both daemons run on the host's network, where the registry is."""
    daemon = Daemon(_made(root / "images"), on_host=True)
    daemon.start()
    try:
        ours = Target("vchd", daemon.host)
        with other_target(root / "images", bridge=False) as other, real_registry(_made(root / "registry")) as host:
            targets = [ours] + ([other] if other is not None else [])
            fifty = layers_of(5, 1000)
            name = push_image(host, "fifty", fifty)
            compare("pull of 50 MB", "ms", targets, functools.partial(pull, name), 5)
            second = push_image(host, "second", [*fifty, *layers_of(1, 100)])
            for target in targets:
                target.docker("pull", name)
            compare("pull of 1 MB on top of that", "ms", targets, functools.partial(pull, second), 5)
            for target in targets:
                target.docker("tag", name, f"{host}/bench/{target.name}:v1")
            compare("push of layers already there", "ms", targets, functools.partial(push, f"{host}/bench"), 5)
            large = push_image(host, "large", layers_of(5, 10_000))
            compare("pull of 500 MB", "ms", targets, functools.partial(pull, large), 3)
            before = [_used(root / "images", target) for target in targets]
            for target in targets:
                target.docker("pull", large)
            sizes = [_used(root / "images", target) - old for target, old in zip(targets, before, strict=True)]
            ratio = f"   x{sizes[0] / sizes[1]:.2f}" if len(sizes) == 2 else ""
            print(
                f"{'disk for an image of 1 GB unpacked':38} MB     {'  '.join(f'{size / MEGABYTE:.0f}' for size in sizes)}{ratio}"
            )
    finally:
        daemon.close()


def push(place: str, target: Target) -> float:
    return timed(lambda: target.docker("push", f"{place}/{target.name}:v1"))


def _used(root: Path, target: Target) -> int:
    """The disk space of a daemon's images, in bytes."""
    folders = [root / "data/layers"] if target.name == "vchd" else [root / "dockerd/overlay2", root / "dockerd/image"]
    done = subprocess.run(["du", "-sxk", *map(str, folders)], capture_output=True, text=True, check=True)
    return sum(int(line.split()[0]) * 1024 for line in done.stdout.splitlines())


def with_a_volume(target: Target) -> float:
    return timed(lambda: target.docker("run", "--rm", "-v", "bench-volume:/v", "busybox", "true"))


def with_a_port(target: Target) -> float:
    return timed(lambda: target.docker("run", "--rm", "-p", "8080", "busybox", "true"))


def network(target: Target) -> float:
    """The time to create a network, connect and disconnect a container, and remove the network, in ms."""

    def all_of_it() -> None:
        target.docker("network", "create", "bench")
        target.docker("network", "connect", "bench", "bench-net")
        target.docker("network", "disconnect", "bench", "bench-net")
        target.docker("network", "rm", "bench")

    return timed(all_of_it)


def networks_and_volumes(targets: list[Target]) -> None:
    compare("run --rm -p true", "ms", targets, with_a_port, 9, settled=True)
    compare("run --rm -v true", "ms", targets, with_a_volume, 9, settled=True)
    for target in targets:
        target.docker("run", "-d", "--name", "bench-net", "busybox", "sleep", "100000")
    compare("network create, connect, undo", "ms", targets, network, 5, settled=True)
    for target in targets:
        target.docker("rm", "-f", "bench-net")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def pull(name: str, target: Target) -> float:
    elapsed = timed(lambda: target.docker("pull", name))
    target.docker("rmi", name)
    return elapsed


def logs(target: Target) -> float:
    size = 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(target.path)
        started = time.monotonic()
        connection.sendall(
            b"GET /containers/bench-log/logs?stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
        )
        while piece := connection.recv(1 << 20):
            size += len(piece)
        return size / MEGABYTE / (time.monotonic() - started)


def compare(
    title: str,
    unit: str,
    targets: list[Target],
    measure: Callable[[Target], float],
    rounds: int = ROUNDS,
    *,
    settled: bool = False,
) -> None:
    """Measure the targets in turns, and print medians and their ratio. With `settled` all daemons are idle before each round."""
    values: dict[str, list[float]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            if settled:
                for other in targets:
                    other.settle()
            values[target.name].append(measure(target))
    medians = {name: statistics.median(found) for name, found in values.items()}
    shown = "  ".join(f"{name} {value:10.1f}" for name, value in medians.items())
    ratio = f"   x{medians['vchd'] / medians['dockerd']:.2f}" if len(medians) == 2 else ""
    print(f"{title:38} {unit:6} {shown}{ratio}", flush=True)


def rates(targets: list[Target], title: str, path: str) -> None:
    for connections in (1, 8):
        compare(f"{title}, {connections} connections", "req/s", targets, functools.partial(_rate, path, connections))


def _rate(path: str, connections: int, target: Target) -> float:
    return target.rate(path, connections)


def usage(pid: int) -> tuple[float, float]:
    """(RSS in MiB, CPU seconds so far)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    rss = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return rss, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(daemon: Daemon, title: str) -> None:
    _, before = usage(daemon.pid)
    time.sleep(5)
    rss, after = usage(daemon.pid)
    print(f"{title:38} RSS {rss:.0f} MiB, CPU {(after - before) / 5 * 100:.2f} %", flush=True)


def idle_machine(daemon: Daemon) -> None:
    """Print the CPU usage of a machine that waits in the pool."""
    (state,) = (daemon.root / "exec/machines").glob("blank*/machine.json")
    pid = json.loads(state.read_text())["pid"]
    time.sleep(2)
    _, before = usage(pid)
    time.sleep(10)
    _, after = usage(pid)
    print(f"{'a machine that waits':38} CPU {(after - before) / 10 * 100:.2f} %", flush=True)


def pss(daemon: Daemon, container: str) -> float:
    """The PSS of a machine's QEMU, in MiB: its own memory and its part of shared memory."""
    state = json.loads((daemon.root / "exec/machines" / container / "machine.json").read_text())
    status = Path(f"/proc/{state['pid']}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Pss:")) / 1024


def boot_split(daemon: Daemon) -> None:
    """Print the steps of a start that boots its VM, and the memory of such a VM."""
    container = daemon.must("run", "-d", "busybox", "sleep", "100").strip()
    print(f"{'one idle container, booted':38} PSS {pss(daemon, container):.0f} MiB")
    left = daemon.must("exec", container, "grep", "MemAvailable", "/proc/meminfo").split()[1]
    print(f"{'memory available in its guest':38} {int(left) // 1024} MiB")
    for line in daemon.vch("trace", container).splitlines():
        print(f"{'':38} {line}")
    daemon.must("rm", "-f", container)


def lists(targets: list[Target], daemon: Daemon) -> None:
    for count in (100, 1000):
        have = len(json.loads(_get(daemon, "/containers/json?all=1")))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda _: _post(daemon, "/containers/create", {"Image": "busybox", "Cmd": ["true"]}),
                    range(count - have),
                )
            )
        rate = targets[0].rate("/containers/json?all=1", 1)
        print(f"{f'list of {count}':38} {1000 / rate:.1f} ms", flush=True)
        if count == 100:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: _post(daemon, "/containers/create", {"Image": "busybox"}), range(100)))
            idle(daemon, "vchd, 200 stopped containers")


def _get(daemon: Daemon, path: str) -> bytes:
    return subprocess.run(
        ["curl", "-s", "--unix-socket", str(daemon.socket), f"http://d{path}"], capture_output=True, check=True
    ).stdout


def _post(daemon: Daemon, path: str, body: object) -> None:
    data = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        head = f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        while connection.recv(65536):
            pass


def starts(targets: list[Target]) -> None:
    """Measure starts of containers."""
    compare("run --rm true", "ms", targets, run_true, settled=True)
    compare("run --rm true, without a network", "ms", targets, run_true_alone, settled=True)
    compare("run --rm true, back to back", "ms", targets, run_true)
    compare("start to first byte", "ms", targets, first_byte, settled=True)
    compare("create", "ms", targets, create)
    for target in targets:
        target.docker("run", "-d", "--name", "bench-exec", "busybox", "sleep", "100000")
    compare("exec true", "ms", targets, exec_true, settled=True)
    for target in targets:
        target.docker("rm", "-f", "bench-exec")


def streams(targets: list[Target]) -> None:
    script = "yes 'a line of some sixty bytes, as logs have them, more or less' | head -n 300000"
    for target in targets:
        target.docker("run", "--name", "bench-log", "busybox", "sh", "-c", script)
    compare("logs", "MB/s", targets, logs, 5)
    compare("attach, stdout", "MB/s", targets, attach_out, 3)
    compare("attach, stdin", "MB/s", targets, attach_in, 3)


def copy_in(target: Target, file: Path, name: str) -> float:
    return timed(lambda: target.docker("cp", str(file), f"{name}:/big"))


def copy_out(target: Target, folder: Path, name: str) -> float:
    return timed(lambda: target.docker("cp", f"{name}:/big", str(folder / f"{target.name}.big")))


def stats_of_twenty(target: Target) -> float:
    """The time of one `stats` request for each of 20 running containers, one after the other, in ms."""

    def all_of_them() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(target.path)
            for number in range(20):
                target.request(connection, f"/containers/bench-stats{number}/stats?stream=0&one-shot=1")

    return timed(all_of_them)


def files_and_figures(targets: list[Target], folder: Path) -> None:
    file = folder / "sixtyfour"
    file.write_bytes(os.urandom(64 << 20))
    for target in targets:
        target.docker("run", "-d", "--name", "bench-cp", "busybox", "sleep", "100000")
        target.docker("create", "--name", "bench-still", "busybox", "true")
    for name, what in (("bench-cp", "a running container"), ("bench-still", "a stopped container")):
        compare(f"cp 64 MiB into {what}", "ms", targets, functools.partial(copy_in, file=file, name=name), 5)
        compare(f"cp 64 MiB out of {what}", "ms", targets, functools.partial(copy_out, folder=folder, name=name), 5)
    for target in targets:
        target.docker("rm", "-f", "bench-cp", "bench-still")
        for number in range(20):
            target.docker("run", "-d", "--name", f"bench-stats{number}", "busybox", "sleep", "100000")
    compare("stats of 20 running containers", "ms", targets, stats_of_twenty, 5, settled=True)
    for target in targets:
        target.docker("rm", "-f", *(f"bench-stats{number}" for number in range(20)))


def main() -> None:
    """Run all measurements, or those of the argument: `builds`, `files`, `images`, `networks`, `sizes` or `sockets`."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    root = Path(tempfile.mkdtemp(prefix="vch-bench-", dir="/tmp"))
    root.chmod(0o711)
    if part in ("", "images"):
        images(root)
    if part in ("", "sizes"):
        compare_sizes(root, _made)
    if part in ("", "builds"):
        compare_builds(root / "builds", min(ROUNDS, 5))
        compare_builds_in_a_machine(root / "machine", min(ROUNDS, 5))
    if part in ("builds", "images", "sizes"):
        shutil.rmtree(root, ignore_errors=True)
        return
    daemon = Daemon(root)
    daemon.start()
    try:
        idle(daemon, "vchd, no container")
        daemon.load_busybox()
        ours = Target("vchd", daemon.host, daemon.wait_pool)
        with other_target(root) as other:
            targets = [ours] + ([other] if other is not None else [])
            if part in ("", "files"):
                files_and_figures(targets, root)
            if part in ("", "networks"):
                networks_and_volumes(targets)
            if part in ("", "sockets"):
                compare_sockets(targets, daemon, root, compare)
            if part:
                return
            rates(targets, "ping", "/_ping")
            for target in targets:
                for number in range(20):
                    target.docker("create", "--name", f"bench{number}", "busybox", "true")
            rates(targets, "list of 20", "/containers/json?all=1")
            starts(targets)
            compare("ten runs at once", "ms", targets, ten_at_once, 5, settled=True)
            streams(targets)
            daemon.stop()
            daemon.start("--vm-pool", "10")
            ours.settle = functools.partial(daemon.wait_pool, 10)
            compare("ten runs at once, --vm-pool 10", "ms", targets, ten_at_once, 5, settled=True)
            ours.settle = daemon.wait_pool
            daemon.stop()
            daemon.start()
        # Starts that boot a VM, for comparison.
        daemon.stop()
        daemon.start("--vm-template", "off")
        compare("run --rm true, booted", "ms", [ours], run_true, 3)
        boot_split(daemon)
        daemon.stop()
        daemon.start()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda n: daemon.must("run", "-d", "--name", f"idle{n}", "busybox", "sleep", "1000"), range(10)
                )
            )
        idle(daemon, "vchd, 10 running containers")
        daemon.wait_pool()
        idle_machine(daemon)
        sizes = [pss(daemon, daemon.must("inspect", f"idle{n}", "--format", "{{.Id}}").strip()) for n in range(10)]
        print(f"{'one of ten idle containers':38} PSS {statistics.median(sizes):.0f} MiB")
        for number in range(10):
            daemon.must("rm", "-f", f"idle{number}")
        lists(targets, daemon)
    finally:
        daemon.kill()
        daemon.start()
        for container in json.loads(_get(daemon, "/containers/json")):
            daemon.must("rm", "-f", container["Id"])
        daemon.close()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
