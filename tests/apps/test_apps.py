"""Each program starts with its defaults, does its job, ends in its time by `docker stop`, and has its data after `docker kill`."""

import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apps.images import App, imported
from tests.live.daemon import Daemon, running_daemon

# On emulated CPUs that others use, too, the first start of RabbitMQ or MariaDB takes many minutes: RabbitMQ needs 190 seconds of CPU time,
# and mariadb-install-db makes 20000 small writes, which are 40000 requests to virtiofsd (README.md of appliance/volume).
_SECONDS = 1200
# A command in the container takes CPU time from the program that it waits for.
_POLL_SECONDS = 5
pytestmark = pytest.mark.timeout(3 * _SECONDS)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        with running_daemon(Path(path)) as running:
            yield running


class Running:
    """A container that runs one app, with a volume at /data."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.name = name

    def tries(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return self.daemon.docker("exec", self.name, *command)

    def does(self, *command: str) -> str:
        return self.daemon.must("exec", self.name, *command)

    def until_it_does(self, *command: str, output: str | None = None) -> None:
        """Wait until this command succeeds, with this output. A failure reports the command's last error, and the container's log."""
        last = self.tries(*command)
        deadline = time.monotonic() + _SECONDS
        while last.returncode or output not in (None, last.stdout):
            self._may_still_come(deadline, f"{command}: {last.stdout}{last.stderr}")
            time.sleep(_POLL_SECONDS)
            last = self.tries(*command)

    def _may_still_come(self, deadline: float, what: str) -> None:
        """Fail with `what` and the container's log when the time is up, or the container has ended."""
        running = self.daemon.must("inspect", "-f", "{{.State.Running}}", self.name) == "true\n"
        assert running, f"{what}\nThe container has ended:\n{self.logs()}"
        assert time.monotonic() < deadline, f"{what}\n{self.logs()}"

    def logs(self) -> str:
        done = self.daemon.docker("logs", self.name)
        return done.stdout + done.stderr

    def until_it_says(self, text: str, times: int = 1) -> None:
        """Wait until the container's log has `text` as often. This costs the container no CPU time."""
        deadline = time.monotonic() + _SECONDS
        while self.logs().count(text) < times:
            self._may_still_come(deadline, f"it did not say {text!r}")
            time.sleep(1)

    def crash(self) -> None:
        """`docker kill`, and start again."""
        self.daemon.must("kill", self.name)
        self.daemon.must("start", self.name)

    def stop(self, seconds: int, status: int = 0) -> None:
        """`docker stop` ends it by its signal, in less than `seconds`, and with this exit status."""
        begun = time.monotonic()
        self.daemon.must("stop", "-t", str(2 * seconds), self.name)
        took = time.monotonic() - begun
        state = json.loads(self.daemon.must("inspect", self.name))[0]["State"]
        assert state["ExitCode"] == status, (state, self.logs())
        assert not state["OOMKilled"]
        assert took < seconds, f"docker stop took {took:.1f} s"


@contextmanager
def running(daemon: Daemon, app: App, *options: str) -> Iterator[Running]:
    """The app in a container with its defaults, and a volume at /data."""
    imported(daemon, app)
    name = f"{app.name}-{secrets.token_hex(3)}"
    daemon.must("run", "-d", "--name", name, "-v", "/data", *options, app.name)
    try:
        yield Running(daemon, name)
    finally:
        daemon.docker("rm", "-f", "-v", name)
        daemon.docker("rmi", app.name)


POSTGRES = App(
    "postgres",
    ("postgresql-15",),
    ('ENTRYPOINT ["start-postgres"]', "STOPSIGNAL SIGINT", "ENV PGHOST=/tmp PGUSER=postgres"),
    ("start-postgres",),
    ("chmod +x /usr/local/bin/start-postgres",),
)


def test_postgresql(daemon: Daemon) -> None:
    with running(daemon, POSTGRES) as app:
        app.until_it_does("psql", "-c", "select 1")
        app.does("/usr/lib/postgresql/15/bin/pgbench", "-q", "-i", "-s", "2", "postgres")
        done = app.does("/usr/lib/postgresql/15/bin/pgbench", "-c", "4", "-t", "25", "postgres")
        assert "number of transactions actually processed: 100/100" in done
        rows = "select count(*), sum(delta) from pgbench_history"
        before = app.does("psql", "-Atc", rows)
        assert before.startswith("100|")
        app.crash()
        app.until_it_does("psql", "-c", "select 1")
        assert app.does("psql", "-Atc", rows) == before
        app.stop(60)


MARIADB = App(
    "mariadb",
    ("mariadb-server",),
    ('ENTRYPOINT ["start-mariadb"]',),
    ("start-mariadb",),
    ("chmod +x /usr/local/bin/start-mariadb; rm -rf /var/lib/mysql/*",),
)


def test_mariadb(daemon: Daemon) -> None:
    ask = ("mariadb", "-S", "/tmp/mysql.sock", "-N", "-B", "-e")
    with running(daemon, MARIADB) as app:
        app.until_it_says("ready for connections")
        app.does(
            *ask,
            "create database shop; create table shop.item (id int auto_increment primary key, name text) engine=innodb",
        )
        app.does(*ask, "insert into shop.item (name) select concat('item ', seq) from shop.seq_1_to_1000")
        app.crash()
        app.until_it_says("ready for connections", 2)
        assert app.does(*ask, "select count(*), max(name) from shop.item") == "1000\titem 999\n"
        app.stop(60)


REDIS = App(
    "redis",
    ("redis-server",),
    ('ENTRYPOINT ["redis-server", "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always"]',),
)


def test_redis(daemon: Daemon) -> None:
    with running(daemon, REDIS) as app:
        app.until_it_does("redis-cli", "ping")
        assert app.does("redis-cli", "set", "key", "value") == "OK\n"
        app.crash()
        app.until_it_does("redis-cli", "ping")
        assert app.does("redis-cli", "get", "key") == "value\n"
        app.stop(20)


NGINX = App(
    "nginx",
    ("nginx-light", "curl"),
    ('ENTRYPOINT ["nginx", "-c", "/usr/local/bin/nginx.conf"]', "STOPSIGNAL SIGQUIT", "USER www-data", "EXPOSE 80"),
    ("nginx.conf",),
    ("install -d -o www-data /data",),
)


def test_nginx_on_port_80_as_a_user_without_rights(daemon: Daemon) -> None:
    with running(daemon, NGINX) as app:
        app.until_it_does("curl", "-s", "http://localhost/")
        assert app.does("id", "-un") == "www-data\n"
        app.does("sh", "-c", "echo page > /data/page")
        assert app.does("curl", "-s", "http://localhost/page") == "page\n"
        app.crash()
        app.until_it_does("curl", "-s", "http://localhost/page")
        assert app.does("curl", "-s", "http://localhost/page") == "page\n"
        app.stop(20)


JVM = App(
    "jvm",
    ("openjdk-17-jdk-headless", "curl"),
    ('ENTRYPOINT ["java", "-cp", "/usr/local/lib", "Store"]', "USER daemon"),
    ("Store.java",),
    ("javac -d /usr/local/lib /usr/local/bin/Store.java", "install -d -o daemon /data"),
)


def test_a_jvm_that_checks_its_limits(daemon: Daemon) -> None:
    with running(daemon, JVM) as app:
        app.until_it_says("started with ")
        app.does("curl", "-sf", "-d", "a line", "http://localhost:9200/")
        app.crash()
        app.until_it_does("curl", "-sf", "http://localhost:9200/")
        assert app.does("curl", "-sf", "http://localhost:9200/") == "a line"
        # The JVM ends by the signal after its shutdown hooks.
        app.stop(30, 143)


# By default, an idle scheduler of Erlang spins before it sleeps. RabbitMQ's guide advises against that in containers: it costs a third more
# CPU time.
RABBITMQ = App(
    "rabbitmq",
    ("rabbitmq-server", "python3-pika"),
    (
        'ENTRYPOINT ["/usr/lib/rabbitmq/bin/rabbitmq-server"]',
        "ENV RABBITMQ_MNESIA_BASE=/data RABBITMQ_LOGS=- HOME=/var/lib/rabbitmq",
        'ENV RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none"',
        "USER rabbitmq",
    ),
    ("work.py",),
    ("install -d -o rabbitmq /data",),
)


def test_rabbitmq(daemon: Daemon) -> None:
    with running(daemon, RABBITMQ) as app:
        app.until_it_says("Server startup complete")
        app.does("python3", "/usr/local/bin/work.py", "put", "a message")
        app.crash()
        app.until_it_says("Server startup complete", 2)
        assert app.does("python3", "/usr/local/bin/work.py", "get") == "a message\n"
        app.stop(60)


NODE = App(
    "node",
    ("nodejs",),
    ('ENTRYPOINT ["node", "--watch", "/src/site.js"]', "EXPOSE 3000"),
    ("site.js", "greeting.js"),
    ("mkdir /src; mv /usr/local/bin/*.js /src/",),
)


def test_a_node_server_that_watches_its_files(daemon: Daemon) -> None:
    ask = ("node", "-e", "fetch('http://localhost:3000').then(answer => answer.text()).then(console.log)")
    with running(daemon, NODE) as app:
        app.until_it_does(*ask)
        assert app.does(*ask) == "hello\n"
        app.does("sed", "-i", "s/hello/changed/", "/src/greeting.js")
        app.until_it_does(*ask, output="changed\n")
        app.crash()
        app.until_it_does(*ask)
        assert app.does(*ask) == "changed\n"
        app.stop(20)


GUNICORN = App(
    "gunicorn",
    ("gunicorn",),
    ('ENTRYPOINT ["gunicorn", "-w", "2", "-b", "0.0.0.0:8000", "--chdir", "/usr/local/bin", "counter:application"]',),
    ("counter.py",),
)


def test_gunicorn(daemon: Daemon) -> None:
    ask = ("python3", "-c", "import urllib.request as u; print(u.urlopen('http://localhost:8000').read().decode())")
    with running(daemon, GUNICORN) as app:
        app.until_it_does(*ask)
        assert app.does(*ask) == "2\n"
        daemon.must("kill", "-s", "HUP", app.name)
        app.until_it_says("Handling signal: hup")
        app.until_it_does(*ask)
        app.crash()
        app.until_it_does(*ask)
        assert app.does(*ask) == "5\n"
        app.stop(40)


# A tmpfs has the mode of the directory that it covers, and mode 1777, which sshd refuses, where the image has no such directory
# (runc 1.4). Images of sshd therefore make the directory.
SSHD = App(
    "sshd",
    ("openssh-server", "openssh-client"),
    ('ENTRYPOINT ["/usr/sbin/sshd", "-D", "-e"]', "EXPOSE 22"),
    (),
    ("mkdir -p -m 755 /run/sshd",),
    ("--skip=cleanup/run",),
)


def test_sshd(daemon: Daemon) -> None:
    login = ("ssh", "-o", "StrictHostKeyChecking=accept-new", "localhost")
    with running(daemon, SSHD, "--tmpfs", "/run/sshd") as app:
        app.does("sh", "-c", "mkdir -p -m 700 ~/.ssh; cd ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f id_ed25519")
        app.does("sh", "-c", "cat ~/.ssh/id_ed25519.pub > ~/.ssh/authorized_keys")
        app.until_it_does(*login, "echo by ssh > /data/file")
        app.crash()
        # The host's keys are the same: ssh would refuse others.
        app.until_it_does(*login, "true")
        assert app.does(*login, "cat /data/file") == "by ssh\n"
        app.stop(20)


CRON = App(
    "cron",
    ("cron",),
    ('ENTRYPOINT ["cron", "-f"]',),
    (),
    ("echo '* * * * * root date >> /data/ticks' > /etc/cron.d/tick",),
)


def test_cron(daemon: Daemon) -> None:
    # cron does not handle SIGTERM, which the first process of a container then never gets: hence --init.
    with running(daemon, CRON, "--init") as app:
        app.until_it_does("test", "-s", "/data/ticks")
        before = app.does("cat", "/data/ticks")
        app.crash()
        assert app.does("cat", "/data/ticks").startswith(before)
        app.until_it_does("sh", "-c", f"[ $(wc -l < /data/ticks) -gt {before.count(chr(10))} ]")
        app.stop(20, 143)
