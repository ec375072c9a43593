"""Which registries builds may use: those of `--allow-registry`, and images that are here."""

import subprocess
from pathlib import Path

from tests.live.buildkit_native import insecure
from tests.live.builds.conftest import in_lane, on_host
from tests.live.builds.native import build_daemon
from tests.live.registry import real_registry


@in_lane
@on_host
def test_builds_use_the_allowed_registries_and_local_images(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("allowed", "other", "builds")]
    for folder in folders:
        folder.mkdir()
    with real_registry(folders[0]) as allowed, real_registry(folders[1]) as other:
        with build_daemon(folders[2], insecure(allowed, other), flags=["--allow-registry", allowed]) as builds:
            # skopeo: vchd itself would not push to the other registry.
            archive = tmp_path / "busybox.tar"
            builds.daemon.must("save", "-o", str(archive), "busybox")
            for registry in (allowed, other):
                target = f"docker://{registry}/base:1"
                subprocess.run(
                    ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}", target], check=True
                )
            builds.buildx("build", "-t", "here", str(builds.context(f"FROM {allowed}/base:1\nRUN true\n")))
            # By a local image, and by the name of an image of another registry that is here.
            builds.daemon.must("tag", "busybox", f"{other}/local:1")
            builds.buildx("build", str(builds.context(f"FROM {other}/local:1\nCOPY --from=here /bin/sh /x\n")))
            for dockerfile in (f"FROM {other}/base:1\n", f"FROM busybox\nCOPY --from={other}/base:1 /bin/sh /x\n"):
                _, err = builds.buildx("build", str(builds.context(dockerfile)), code=1)
                assert f"docker-image://{other}/base:1" in err
                assert "denied" in err
            # No policy sees where caches are.
            context = str(builds.context("FROM busybox\n"))
            _, err = builds.buildx("build", "--cache-from", f"{other}/base:1", context, code=1)
            assert f"registry {other} is not allowed; the allowed registries are {allowed}" in err
