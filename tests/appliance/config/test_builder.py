"""The settings of the builder."""

import json
from pathlib import Path

import pytest

from appliance.config import BuilderConfig, parse_arguments
from appliance.config.builder import default_builder_archive
from appliance.errors import InvalidParameter


def test_flags_of_the_builder_are_apart() -> None:
    flags = ["--builder-image", "b:1", "--builder-memory", "1024", "--builder-cpus", "3"]
    config = parse_arguments([*flags, "--builder-disk", "5g", "--builder-idle", "1h30m"])
    assert config.builder == BuilderConfig("b:1", 1024, 3, 5 << 30, 5400)
    assert parse_arguments([]).builder == BuilderConfig()
    assert BuilderConfig().builder_idle == 600


def test_the_archive_beside_the_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert default_builder_archive() == Path("/usr/share/vch/builder.tar")
    (tmp_path / "share/vch").mkdir(parents=True)
    (tmp_path / "share/vch/builder.tar").touch()
    assert BuilderConfig().builder_archive == tmp_path / "share/vch/builder.tar"
    assert parse_arguments(["--builder-archive", "/x.tar"]).builder.builder_archive == Path("/x.tar")


def test_keys_of_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"builder-disk": "30g", "builder-idle": 0, "builder-cpus": 2}))
    config = parse_arguments(["--config-file", str(file)])
    assert config.builder == BuilderConfig(builder_disk=30 << 30, builder_idle=0, builder_cpus=2)


@pytest.mark.parametrize(
    ("flag", "bad", "reason"),
    [
        ("--builder-memory", "100", "not between 512"),
        ("--builder-memory", "2g", "not between 512"),
        ("--builder-cpus", "0", "not a number of CPUs"),
        ("--builder-disk", "100m", "too small"),
        ("--builder-disk", "much", "invalid size"),
        ("--builder-idle", "10 m", "not a duration"),
        ("--builder-idle", "-1", "not a duration"),
        ("--builder-idle", "10d", "not a duration"),
        ("--builder-idle", "", "not a duration"),
        ("--builder-idle", "999999h", "at most a year"),
    ],
)
def test_values_that_no_builder_can_have(flag: str, bad: str, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        parse_arguments([f"{flag}={bad}"])
