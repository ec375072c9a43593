"""The image archive of the first container."""

import hashlib
import io
import json
import tarfile

from build.busybox import archive, layer


def test_an_archive_of_one_image() -> None:
    layers = [b"first", b"second"]
    data = archive(layers, {"Cmd": ["sh"]}, "test:latest")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            files[member.name] = file.read()
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] == ["test:latest"]
    config = files[manifest["Config"]]
    assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
    digests = json.loads(config)["rootfs"]["diff_ids"]
    assert digests == [f"sha256:{hashlib.sha256(item).hexdigest()}" for item in layers]
    assert [files[name] for name in manifest["Layers"]] == layers
    assert archive(layers, {"Cmd": ["sh"]}, "test:latest") == data


def test_the_layer_has_busybox_and_a_link_for_each_applet() -> None:
    with tarfile.open(fileobj=io.BytesIO(layer())) as tar:
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("tmp").mode == 0o1777
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().startswith(b"root:x:0:0:")
