"""Images with real clients: docker, skopeo, a real registry."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import Tar
from tests.live.certificates import self_signed
from tests.live.daemon import Daemon, running_daemon
from tests.live.images import busybox_layer, image_archive
from tests.live.registry import LyingRegistry, real_registry
from tests.live.tokens import TokenService

_PASSWORDS = "user:$2b$05$lNxCjHKq7i/qO44tGCsfvOItkcw3LHPkesHRu5OIPIe6Jio/PVy8m\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("images"), on_host=True) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def _layer(name: str, data: bytes = b"x") -> bytes:
    return Tar().add(name, data).bytes()


def _load(daemon: Daemon, name: str, *extra: bytes, **config: object) -> str:
    """Load an image of busybox and these layers; return its ID."""
    daemon.must(
        "load", stdin=image_archive([busybox_layer(), *extra], {"Cmd": ["sh"], "Env": ["PATH=/bin"], **config}, name)
    )
    return daemon.must("inspect", "-f", "{{.Id}}", name).strip()


def _images(daemon: Daemon, *arguments: str) -> list[str]:
    return sorted(daemon.must("images", "--format", "{{.Repository}}:{{.Tag}}", *arguments).split())


def _catalogue(host: str, path: str) -> dict[str, object]:
    done = subprocess.run(["curl", "-s", f"http://{host}/v2/{path}"], capture_output=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


# -- rows -------------------------------------------------------------------------------------------------------------


def test_image_list(daemon: Daemon) -> None:
    first = _load(daemon, "list/one:1", _layer("one"), Labels={"kind": "a"})
    time.sleep(1.1)
    _load(daemon, "list/two:1", _layer("two"))
    assert _images(daemon, "--filter", "reference=list/*") == ["list/one:1", "list/two:1"]
    assert _images(daemon, "list/one") == ["list/one:1"]
    assert _images(daemon, "--filter", "label=kind=a") == ["list/one:1"]
    assert _images(daemon, "--filter", "dangling=true") == []
    assert "list/one:1" not in _images(daemon, "--filter", "since=list/one:1")
    code, said = daemon.request("GET", "/v1.51/images/json?shared-size=1")
    rows = {row["RepoTags"][0]: row for row in json.loads(said) if row["RepoTags"]}
    assert code == 200
    assert rows["list/one:1"]["Id"] == first
    assert 0 < rows["list/one:1"]["SharedSize"] < rows["list/one:1"]["Size"]
    assert "invalid filter" in daemon.docker("images", "--filter", "nonsense=1").stderr


def test_image_create_by_pull_and_push(daemon: Daemon, registry: str) -> None:
    name = f"{registry}/team/app"
    identity = _load(daemon, f"{name}:1", _layer("app", os.urandom(3 << 20)))
    said = daemon.must("push", f"{name}:1")
    assert f"The push refers to repository [{name}]" in said
    assert said.count("Pushed") == 2
    digest = said.rpartition("digest: ")[2].split()[0]
    assert _catalogue(registry, "_catalog") == {"repositories": ["team/app"]}
    assert f"{name}@{digest}" in daemon.must("inspect", "-f", "{{.RepoDigests}}", identity)
    assert daemon.must("push", f"{name}:1").count("Layer already exists") == 2
    daemon.must("tag", f"{name}:1", f"{registry}/other/place:2")
    assert daemon.must("push", f"{registry}/other/place:2").count("Mounted from team/app") == 2
    daemon.must("rmi", f"{name}:1", f"{registry}/other/place:2")
    daemon.must("pull", f"{registry}/other/place:2")
    assert daemon.must("inspect", "-f", "{{.Id}}", f"{registry}/other/place:2").strip() == identity
    assert daemon.must("run", "--rm", f"{registry}/other/place:2", "wc", "-c", "/app").split()[0] == str(3 << 20)
    assert f"tag does not exist: {registry}/other/place:9" in daemon.docker("push", f"{registry}/other/place:9").stderr
    daemon.must("rmi", f"{registry}/other/place:2")
    assert "Downloaded newer image" in daemon.must("pull", f"{name}@{digest}")
    assert daemon.must("images", "-q", "--no-trunc", f"{name}@{digest}").strip() == identity
    nowhere = daemon.docker("push", f"{registry}/no/where:1")
    assert nowhere.returncode == 1
    assert f"The push refers to repository [{registry}/no/where]" in nowhere.stdout
    assert f"An image does not exist locally with the tag: {registry}/no/where" in nowhere.stderr


def test_image_create_of_all_tags(daemon: Daemon, registry: str) -> None:
    for tag in ("one", "two"):
        _load(daemon, f"{registry}/many:{tag}", _layer(tag))
    daemon.must("push", "-a", f"{registry}/many")
    assert _catalogue(registry, "many/tags/list")["tags"] == ["one", "two"]
    daemon.must("rmi", f"{registry}/many:one", f"{registry}/many:two")
    daemon.must("pull", "-a", f"{registry}/many")
    assert _images(daemon, f"{registry}/many") == [f"{registry}/many:one", f"{registry}/many:two"]


class _User:
    """A docker CLI with its own configuration folder, and so its own logins."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._daemon = daemon
        self._environment = {**os.environ, "DOCKER_CONFIG": str(folder / "config")}

    def __call__(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._daemon.command(*arguments),
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            env=self._environment,
        )

    def login(self, host: str, name: str, password: str) -> "subprocess.CompletedProcess[str]":
        return self("login", "-u", name, "--password-stdin", host, stdin=password)


def test_image_auth(daemon: Daemon, tmp_path: Path) -> None:
    with real_registry(tmp_path, htpasswd=_PASSWORDS) as host:
        docker = _User(daemon, tmp_path)
        _load(daemon, f"{host}/mine:1", _layer("mine"))
        denied = docker("push", f"{host}/mine:1")
        assert denied.returncode
        assert "no basic auth credentials" in denied.stderr
        wrong = docker.login(host, "user", "wrong")
        assert wrong.returncode
        assert "401 Unauthorized" in wrong.stderr
        assert "Login Succeeded" in docker.login(host, "user", "secret").stdout
        assert not docker("push", f"{host}/mine:1").returncode
        daemon.must("rmi", f"{host}/mine:1")
        missing = f'Head "http://{host}/v2/mine/manifests/1": no basic auth credentials'
        assert missing in daemon.docker("pull", f"{host}/mine:1").stderr
        assert not docker("pull", f"{host}/mine:1").returncode


def test_image_auth_by_tokens(daemon: Daemon, tmp_path: Path) -> None:
    users = {"": ("", set[str]()), "owner": ("secret", {"pull", "push"}), "guest": ("hello", {"pull"})}
    service = TokenService(tmp_path, users)
    with service.running() as told, real_registry(tmp_path, tokens=told) as host:
        owner, guest = _User(daemon, tmp_path / "owner"), _User(daemon, tmp_path / "guest")
        name = f"{host}/team/mine:1"
        _load(daemon, name, _layer("mine"))
        assert "denied" in daemon.docker("push", name).stderr
        wrong = owner.login(host, "owner", "wrong")
        assert wrong.returncode
        assert "unauthorized: incorrect username or password" in wrong.stderr
        assert "Login Succeeded" in owner.login(host, "owner", "secret").stdout
        assert "Login Succeeded" in guest.login(host, "guest", "hello").stdout
        assert "denied: requested access to the resource is denied" in guest("push", name).stderr
        assert not owner("push", name).returncode
        # A layer is mounted from another repository, which needs a token for that, too.
        daemon.must("tag", name, f"{host}/team/other:1")
        assert "Mounted from team/mine" in owner("push", f"{host}/team/other:1").stdout
        wanted = {"repository:team/other:pull,push", "repository:team/mine:pull"}
        assert any(user == "owner" and wanted <= set(scopes) for user, scopes in service.asked), service.asked
        daemon.must("rmi", name, f"{host}/team/other:1")
        assert "pull access denied" in daemon.docker("pull", name).stderr
        service.asked.clear()
        assert not guest("pull", name).returncode
        # One token for the manifests and blobs of a repository.
        assert service.asked == [("guest", ["repository:team/mine:pull"])]
        assert not guest("pull", "-a", f"{host}/team/other").returncode
        said = guest("manifest", "inspect", "--insecure", name)
        assert not said.returncode, said.stderr
        # A client that logged in by an identity token has no password.
        config = {"auths": {host: {"identitytoken": "refresh-guest"}}}
        (tmp_path / "guest/config/config.json").write_text(json.dumps(config))
        daemon.must("rmi", name)
        service.asked.clear()
        assert not guest("pull", name).returncode
        assert service.asked == [("guest", ["repository:team/mine:pull"])]


_BEHIND = "10.99.0.1"


@pytest.mark.parametrize("secured", [False, True])
def test_registries_behind_a_proxy(tmp_path: Path, secured: bool) -> None:
    if os.geteuid():
        pytest.skip("an address that is not loopback needs a network namespace")
    daemon = Daemon(tmp_path / "vchd")
    (tmp_path / "vchd").mkdir()
    daemon.run_inside("ip", "addr", "add", f"{_BEHIND}/32", "dev", "lo")
    tls = self_signed(tmp_path, _BEHIND) if secured else None
    host = f"{_BEHIND}:5000"
    log = tmp_path / "proxy.log"
    (tmp_path / "proxy.conf").write_text(
        f'Port 8888\nListen 127.0.0.1\nBasicAuth user secret\nLogFile "{log}"\nLogLevel Connect\nConnectPort 5000\n'
    )
    if secured:
        certs = tmp_path / "certs.d" / host
        certs.mkdir(parents=True)
        shutil.copy(tmp_path / "cert.pem", certs / "ca.crt")
    flags = ["--certs-dir", str(tmp_path / "certs.d")] if secured else ["--insecure-registry", host]
    flags += ["--no-proxy", "10.98.0.0/16,example.test"]
    address = "http://user:secret@127.0.0.1:8888"
    with real_registry(tmp_path, inside=daemon.inside(), address=_BEHIND, tls=tls):
        proxy = subprocess.Popen(
            [*daemon.inside(), "tinyproxy", "-d", "-c", str(tmp_path / "proxy.conf")], stdout=subprocess.DEVNULL
        )
        try:
            daemon.start(*flags, "--http-proxy", address, "--https-proxy", address)
            info = json.loads(daemon.must("info", "--format", "{{json .}}"))
            assert info["HttpsProxy"] == "http://xxxxx:xxxxx@127.0.0.1:8888"
            assert info["NoProxy"] == "10.98.0.0/16,example.test"
            _load(daemon, f"{host}/proxied:1", _layer("proxied"))
            daemon.must("push", f"{host}/proxied:1")
            daemon.must("rmi", f"{host}/proxied:1")
            daemon.must("pull", f"{host}/proxied:1")
            said = log.read_text()
            assert f"CONNECT {host}" in said if secured else f"GET http://{host}/v2/proxied/manifests/1" in said
            # A registry on loopback is never reached through a proxy.
            assert daemon.docker("pull", "127.0.0.1:1/none").returncode
            assert "127.0.0.1:1 " not in log.read_text()
            daemon.stop()
            wrong = address.replace("secret", "wrong-secret")
            daemon.start(*flags, "--http-proxy", wrong, "--https-proxy", wrong)
            denied = daemon.docker("pull", f"{host}/proxied:2")
            assert denied.returncode
            assert "wrong-secret" not in denied.stderr + daemon.log.read_text()
            daemon.stop()
            # A registry in NO_PROXY is reached without the proxy.
            before = log.read_text()
            daemon.start(*flags, "--no-proxy", "10.99.0.0/24", "--http-proxy", address, "--https-proxy", address)
            daemon.must("pull", f"{host}/proxied:1")
            assert log.read_text() == before
        finally:
            daemon.close()
            proxy.terminate()
            proxy.wait()


def test_image_inspect_and_history(daemon: Daemon) -> None:
    identity = _load(daemon, "shown:1", _layer("shown", b"12345"))
    shown = json.loads(daemon.must("inspect", "shown:1"))[0]
    assert shown["Id"] == identity
    assert shown["RepoTags"] == ["shown:1"]
    assert len(shown["RootFS"]["Layers"]) == 2
    rows = daemon.must("history", "--no-trunc", "--format", "{{.ID}} {{.Size}}", "shown:1").splitlines()
    assert rows[0] == f"{identity} 5B"
    assert [row.split()[0] for row in rows[1:]] == ["<missing>"]
    daemon.must("run", "--name", "made", "shown:1", "sh", "-c", "echo more > /more")
    before = int(time.time())
    daemon.must("commit", "-m", "a comment", "made", "shown:2")
    code, said = daemon.request("GET", "/v1.51/images/shown:2/history")
    row = json.loads(said)[0]
    assert code == 200
    assert (row["Comment"], row["Size"], row["Tags"]) == ("a comment", 5, ["shown:2"])
    assert before <= row["Created"] <= time.time()
    daemon.must("rm", "made")


def test_image_tag_and_remove(daemon: Daemon) -> None:
    identity = _load(daemon, "tagged:1", _layer("tagged"))
    daemon.must("tag", "tagged:1", "also:1")
    assert "image is referenced in multiple repositories" in daemon.docker("rmi", identity).stderr
    assert daemon.must("rmi", "also:1").splitlines() == ["Untagged: also:1"]
    daemon.must("create", "--name", "holds", "tagged:1")
    assert "container" in daemon.docker("rmi", "tagged:1").stderr
    daemon.must("rm", "holds")
    said = daemon.must("rmi", "tagged:1")
    assert f"Deleted: {identity}" in said
    assert "No such image" in daemon.docker("rmi", "tagged:1").stderr


def test_image_search(daemon: Daemon, registry: str) -> None:
    # This registry has no search API, like most.
    done = daemon.docker("search", f"{registry}/term")
    assert done.returncode
    assert "404" in done.stderr
    assert "limit 0 is outside the range" in daemon.request("GET", "/v1.51/images/search?term=x&limit=0")[1]


def test_image_search_in_an_index(daemon: Daemon) -> None:
    rows = [
        {"name": "one", "description": "first", "star_count": 5, "is_official": True, "is_automated": False},
        {"name": "two", "description": "second", "star_count": 1, "is_official": False, "is_automated": False},
    ]
    with LyingRegistry() as index:
        index.answers["/v1/search"] = (200, {}, json.dumps({"num_results": 2, "results": rows}).encode(), 0.0)
        said = daemon.must("search", "--format", "{{.Name}} {{.StarCount}}", f"{index.host}/term")
        assert said.splitlines() == ["one 5", "two 1"]
        assert daemon.must("search", "-f", "stars=3", "--format", "{{.Name}}", f"{index.host}/term").split() == ["one"]
        assert daemon.must(
            "search", "-f", "is-official=false", "--format", "{{.Name}}", f"{index.host}/term"
        ).split() == ["two"]
        index.answers["/v1/search"] = (200, {}, b'{"results": 5}', 0.0)
        assert "sent a malformed answer to a search" in daemon.docker("search", f"{index.host}/term").stderr


def test_info_version_ping_and_events(daemon: Daemon) -> None:
    assert daemon.request("GET", "/_ping") == (200, "OK")
    info = json.loads(daemon.must("info", "--format", "{{json .}}"))
    assert info["Plugins"]["Volume"] == ["local"]
    assert any("user-mode networking" in warning for warning in info["Warnings"])
    version = json.loads(daemon.must("version", "--format", "{{json .Server}}"))
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.51", "1.22")
    since = str(time.time())
    _load(daemon, "told:1", _layer("told"))
    daemon.must("tag", "told:1", "told:2")
    subprocess.run(daemon.command("save", "told:2"), capture_output=True, check=True)
    daemon.must("rmi", "told:1", "told:2")
    said = daemon.must(
        "events", "--since", since, "--until", str(time.time()), "--filter", "type=image", "--format", "{{.Action}}"
    )
    assert said.split() == [
        "load",
        "tag",
        "save",
        "untag",
        "untag",
        "delete",
        *["delete"] * (said.split().count("delete") - 1),
    ]


def test_image_prune(daemon: Daemon) -> None:
    old = _load(daemon, "pruned:1", _layer("old"))
    _load(daemon, "pruned:1", _layer("new"))
    assert f"deleted: {old}" in daemon.must("image", "prune", "-f")
    assert _images(daemon, "pruned") == ["pruned:1"]
    daemon.must("create", "--name", "keeper", "pruned:1")
    daemon.must("image", "prune", "-af")
    assert _images(daemon) == ["pruned:1"]
    daemon.must("rm", "keeper")
    daemon.load_busybox()


# -- out and in again ---------------------------------------------------------------------------------------------------


def test_image_get_one_get_all_and_load(daemon: Daemon) -> None:
    tar = Tar().add("big", os.urandom(5 << 20)).add("dir", kind=tarfile.DIRTYPE, mode=0o700)
    layer = tar.add("dir/l", kind=tarfile.SYMTYPE, linkname="../big").bytes()
    identity = _load(daemon, "saved:1", layer)
    other = _load(daemon, "saved:2", layer, _layer("second"))
    one = subprocess.run(daemon.command("save", "saved:1"), capture_output=True, check=True).stdout
    both = subprocess.run(daemon.command("save", "saved:1", "saved:2"), capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(both)) as archive:
        names = archive.getnames()
        manifest = json.loads(archive.extractfile("manifest.json").read())  # type: ignore[union-attr]
        for name in names:
            if name.startswith("blobs/sha256/") and len(name) > 20:
                data = archive.extractfile(name).read()  # type: ignore[union-attr]
                assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2], name
                if data == layer:
                    found = name
    assert [entry["RepoTags"] for entry in manifest] == [["saved:1"], ["saved:2"]]
    # The archive has the layer as it was loaded, byte for byte, and once.
    assert names.count(found) == 1
    assert len(both) < len(one) + (1 << 20)
    for archive_bytes, tags in ((one, ["saved:1"]), (both, ["saved:1", "saved:2"])):
        daemon.must("rmi", *_images(daemon, "saved"))
        assert daemon.must("load", stdin=archive_bytes).count("Loaded image: saved") == len(tags)
        assert _images(daemon, "saved") == tags
    assert daemon.must("inspect", "-f", "{{.Id}}", "saved:1", "saved:2").split() == [identity, other]
    assert daemon.must("run", "--rm", "saved:2", "sh", "-c", "cat /second; wc -c < /dir/l").split() == [
        "x" + str(5 << 20)
    ]


@pytest.mark.parametrize("compression", ["gz", "xz", ""])
def test_image_import(daemon: Daemon, tmp_path: Path, compression: str) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(busybox_layer())
    if compression:
        subprocess.run([{"gz": "gzip", "xz": "xz"}[compression], "-k", str(layer)], check=True)
        layer = Path(f"{layer}.{compression}")
    identity = daemon.must(
        "import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin A=b", "-m", "said", str(layer), "imported:1"
    ).strip()
    shown = json.loads(daemon.must("inspect", "imported:1"))[0]
    assert (shown["Id"], shown["Comment"], shown["Config"]["Cmd"]) == (identity, "said", ["sh"])
    assert daemon.must("run", "--rm", "imported:1", "sh", "-c", "echo $A") == "b\n"
    daemon.must("rmi", "imported:1")


def test_import_of_a_file_that_is_not_an_archive(daemon: Daemon) -> None:
    done = daemon.docker("import", "-", "never:1", stdin=b"nonsense" * 1000)
    assert done.returncode
    assert "invalid tar header" in done.stderr
    assert "internal error" not in done.stderr
    assert _images(daemon, "never") == []


def test_skopeo_copies_to_and_from(daemon: Daemon, registry: str, tmp_path: Path) -> None:
    identity = _load(daemon, "copied:1", _layer("copied", os.urandom(1 << 20)))
    tool = ("skopeo", "--insecure-policy", "copy", "--src-daemon-host", daemon.host, "--dest-tls-verify=false")
    subprocess.run(
        [*tool, "docker-daemon:copied:1", f"docker://{registry}/skopeo/copied:1"], check=True, capture_output=True
    )
    assert "skopeo/copied" in str(_catalogue(registry, "_catalog")["repositories"])
    subprocess.run([*tool, "docker-daemon:copied:1", f"oci:{tmp_path}/layout:1"], check=True, capture_output=True)
    daemon.must("rmi", "copied:1")
    back = ("skopeo", "--insecure-policy", "copy", "--dest-daemon-host", daemon.host, "--src-tls-verify=false")
    subprocess.run(
        [*back, f"docker://{registry}/skopeo/copied:1", "docker-daemon:copied:2"], check=True, capture_output=True
    )
    layers = daemon.must("inspect", "-f", "{{.RootFS.Layers}}", "copied:2")
    daemon.must("pull", f"{registry}/skopeo/copied:1")
    assert daemon.must("inspect", "-f", "{{.RootFS.Layers}}", f"{registry}/skopeo/copied:1") == layers
    assert len(identity) == 71
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        out.add(tmp_path / "layout", arcname=".")
    assert "Loaded image" in daemon.must("load", stdin=archive.getvalue())


def test_distribution(daemon: Daemon, registry: str) -> None:
    _load(daemon, f"{registry}/described:1", _layer("described"))
    daemon.must("push", f"{registry}/described:1")
    code, said = daemon.request("GET", f"/v1.51/distribution/{registry}/described:1/json")
    found = json.loads(said)
    assert code == 200
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert found["Descriptor"]["digest"].startswith("sha256:")
    assert daemon.request("GET", f"/v1.51/distribution/{registry}/nothing:1/json")[0] == 404


# -- rules ----------------------------------------------------------------------------------------------------------------


def test_platforms(daemon: Daemon, registry: str) -> None:
    _load(daemon, f"{registry}/made/for:1", _layer("platform"))
    daemon.must("push", f"{registry}/made/for:1")
    assert not daemon.docker("pull", "--platform", "linux/amd64", f"{registry}/made/for:1").returncode
    other = daemon.docker("pull", "--platform", "linux/arm64", f"{registry}/made/for:1")
    assert "does not match the specified platform: wanted linux/arm64, actual: linux/amd64" in other.stderr
    code, said = daemon.request("POST", f"/v1.51/images/create?fromImage={registry}/made/for&tag=1&platform=foobar")
    assert (code, "unknown operating system or architecture" in said) == (400, True)
    wanted = daemon.docker("create", "--pull", "never", "--platform", "linux/arm64", f"{registry}/made/for:1")
    assert (
        "was found but its platform (linux/amd64) does not match the specified platform (linux/arm64)" in wanted.stderr
    )
    daemon.must("import", "--platform", "linux/arm64", "-", "foreign", stdin=_layer("foreign"))
    foreign = daemon.docker("create", "foreign", "true")
    assert not foreign.returncode
    assert (
        "The requested image's platform (linux/arm64) does not match the detected host platform (linux/amd64)"
        in foreign.stderr
    )
    daemon.must("rm", foreign.stdout.strip())
    daemon.must("rmi", "foreign")


def test_only_registries_that_are_allowed(tmp_path: Path, registry: str) -> None:
    with running_daemon(tmp_path, "--allow-registry", "elsewhere.example:5000", on_host=True) as daemon:
        done = daemon.docker("pull", f"{registry}/team/app:1")
        assert done.returncode
        assert f"registry {registry} is not allowed; the allowed registries are elsewhere.example:5000" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_a_registry_has_to_prove_its_identity(tmp_path: Path) -> None:
    address = "10.55.0.1"
    tls = self_signed(tmp_path, address)
    certificates = tmp_path / "certs"
    with running_daemon(tmp_path, "--certs-dir", str(certificates)) as daemon:
        for command in ("link add far type bridge", f"addr add {address}/24 dev far", "link set far up"):
            daemon.run_inside("ip", *command.split())
        (tmp_path / "registry").mkdir()
        with real_registry(tmp_path / "registry", inside=daemon.inside(), address=address, tls=tls) as host:
            daemon.must("tag", "busybox", f"{host}/bb:1")
            refused = daemon.docker("push", f"{host}/bb:1")
            assert refused.returncode
            assert "certificate verify failed" in refused.stderr
            (certificates / host).mkdir(parents=True)
            (certificates / host / "ca.crt").write_bytes(tls[0].read_bytes())
            assert "Pushed" in daemon.must("push", f"{host}/bb:1")
            daemon.must("rmi", f"{host}/bb:1")
            daemon.must("pull", f"{host}/bb:1")
            (certificates / host / "ca.crt").unlink()
            assert daemon.docker("pull", f"{host}/bb:1").returncode
            daemon.stop()
            daemon.start("--insecure-registry", "10.55.0.0/16")
            daemon.must("pull", f"{host}/bb:1")


def test_system_df(daemon: Daemon) -> None:
    _load(daemon, "counted:1", _layer("counted", bytes(1000)))
    daemon.must("run", "-d", "--name", "counts", "-v", "/v", "counted:1", "sleep", "1000")
    daemon.must("exec", "counts", "dd", "if=/dev/zero", "of=/y", "bs=1M", "count=3")
    # The guest has not written that to its disk by itself yet. Zeros take as much space as other bytes.
    assert json.loads(daemon.must("inspect", "--size", "counts"))[0]["SizeRw"] >= 3 << 20
    daemon.must("exec", "counts", "dd", "if=/dev/zero", "of=/z", "bs=1M", "count=3")
    (listed,) = json.loads(daemon.request("GET", "/v1.51/containers/json?size=1")[1])
    assert listed["SizeRw"] >= 6 << 20
    daemon.must("exec", "counts", "dd", "if=/dev/zero", "of=/zz", "bs=1M", "count=3")
    code, said = daemon.request("GET", "/v1.51/system/df")
    found = json.loads(said)
    assert code == 200
    assert found["LayersSize"] > 0
    assert any("counted:1" in (image["RepoTags"] or ()) and image["Containers"] == 1 for image in found["Images"])
    assert [container["Names"] for container in found["Containers"]] == [["/counts"]]
    assert found["Containers"][0]["SizeRw"] >= 9 << 20
    assert found["Volumes"][0]["UsageData"]["RefCount"] == 1
    assert found["BuildCache"] == []
    assert "Images" in daemon.must("system", "df")
    assert json.loads(daemon.request("GET", "/v1.51/system/df?type=volume")[1]).get("Images") is None
    daemon.must("rm", "-fv", "counts")


def test_plugins_are_refused_by_name(daemon: Daemon) -> None:
    assert (
        "plugins are not supported" in daemon.docker("plugin", "install", "--grant-all-permissions", "some/one").stderr
    )
    assert 'plugin "some/one" not found' in daemon.docker("plugin", "inspect", "some/one").stderr
    assert len(daemon.must("plugin", "ls").splitlines()) == 1


def test_system_prune(daemon: Daemon) -> None:
    """The CLI asks for the build cache last, and fails if that has no answer."""
    daemon.must("create", "--name", "tidied", "busybox")
    said = daemon.must("system", "prune", "--force", "--volumes")
    assert "Total reclaimed space" in said
    assert "tidied" not in daemon.must("ps", "-a", "--format", "{{.Names}}")
