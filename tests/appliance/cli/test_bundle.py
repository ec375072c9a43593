"""The archive of `vch logs`: secrets are removed, the rest is unchanged."""

import io
import tarfile

import pytest

from appliance.cli.bundle import Bundle, scrubbed, text_of_frames, without_values
from appliance.streams.stdcopy import frame

_KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("login with password=hunter2 failed", "hunter2"),
        ('{"Password": "hunter2", "user": "x"}', "hunter2"),
        ("vsphere-password: 'two words'", "two words"),
        ("Authorization: Basic aHVudGVyMg==", "aHVudGVyMg"),
        ("Authorization: Bearer eyJhbGciOi", "eyJhbGciOi"),
        ("pull https://user:hunter2@registry.example/v2/", "hunter2"),
        ("API_KEY=hunter2;", "hunter2"),
        (f"read {_KEY} from a file", "MHcCAQEE"),
        (f"port vch://{'ab' * 16} is expected", "ab" * 16),
    ],
)
def test_secrets_are_removed(text: str, secret: str) -> None:
    assert secret not in scrubbed(text)
    assert "(removed)" in scrubbed(text)


def test_other_text_is_unchanged() -> None:
    text = "2026-11-26 started 4f2a in 131 ms: https://registry.example/v2/ answered 200, layer sha256:" + "ab" * 32
    assert scrubbed(text) == text


def test_environment_variables_keep_their_names() -> None:
    found = without_values({"Id": "x", "Config": {"Env": ["TOKEN=abc", "EMPTY"], "Cmd": ["sh"]}})
    assert found == {"Id": "x", "Config": {"Env": ["TOKEN=(removed)", "EMPTY=(removed)"], "Cmd": ["sh"]}}


def test_frames_become_text() -> None:
    data = frame(1, b"out\n") + frame(2, b"err\n")
    assert text_of_frames(data) == "out\nerr\n"
    assert text_of_frames(data + b"\1\0\0") == "out\nerr\n"
    assert text_of_frames(b"") == ""


def test_every_file_is_scrubbed() -> None:
    bundle = Bundle("x")
    bundle.add("a.txt", "password=hunter2")
    bundle.add("b.json", {"token": "hunter2"})
    with tarfile.open(fileobj=io.BytesIO(bundle.finish())) as archive:
        assert archive.getnames() == ["x/a.txt", "x/b.json"]
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            assert b"hunter2" not in file.read()
