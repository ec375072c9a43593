"""The values of the configuration file and of flags: types, choices, the words of --help."""

import json
from pathlib import Path

import pytest

from appliance.config import parse_arguments
from appliance.config.rows import GROUPS
from appliance.config.table import DAEMON_SETTINGS
from appliance.errors import InvalidParameter


def _parse_file(folder: Path, content: object) -> object:
    path = folder / "daemon.json"
    path.write_text(json.dumps(content))
    return parse_arguments(["--config-file", str(path)])


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("vm-memory", True, "vm-memory: expected a number, got true"),
        ("vm-memory", "much", "vm-memory: 'much' is not between 64 and 1048576 MiB"),
        ("vm-memory", 63, "vm-memory: '63' is not between 64 and 1048576 MiB"),
        ("vm-cpus", 0, "vm-cpus: '0' is not a number of CPUs between 1 and 255"),
        ("labels", "a=b", 'labels: expected a list of texts, got "a=b"'),
        ("labels", [1], r"labels: expected a list of texts, got \[1\]"),
        ("tlsverify", "yes", 'tlsverify: expected true or false, got "yes"'),
        ("vm-template", "maybe", "vm-template: 'maybe' is not on or off"),
        ("log-level", "loud", "log-level: 'loud' is not one of debug, info, warn, error, fatal"),
        ("storage-quota", "much", "storage-quota: invalid size: 'much'"),
        ("container-networks", ["name=x"], "container-networks: name=x: name=NAME and portgroup=PORTGROUP"),
        ("tls-allow", ["all"], "tls-allow: invalid access rule 'all'"),
        ("pidfile", None, "pidfile: expected a text, got null"),
        ("default-ulimits", ["nofile"], "default-ulimits: invalid ulimit argument: nofile"),
        (
            "default-ulimits",
            {"nofile": 3},
            "default-ulimits: invalid ulimit nofile: expected an object with Name, Soft and Hard",
        ),
        ("default-ulimits", {"x": {"Soft": 1, "Hard": 1}}, "default-ulimits: invalid ulimit type: x"),
        ("default-ulimits", "x", 'default-ulimits: expected a list of texts, got "x"'),
    ],
)
def test_wrong_values_of_the_file(tmp_path: Path, key: str, value: object, problem: str) -> None:
    with pytest.raises(InvalidParameter, match=f"unable to configure the daemon with file .*: {problem}"):
        _parse_file(tmp_path, {key: value})


def test_all_forms_of_a_value(tmp_path: Path) -> None:
    for quota in (1 << 30, "1g"):
        assert _parse_file(tmp_path, {"storage-quota": quota}) == parse_arguments(["--storage-quota", "1g"])
    for template in (False, "off"):
        assert _parse_file(tmp_path, {"vm-template": template}) == parse_arguments(["--vm-template", "off"])
    # dockerd's form, and the list that the appliance writes.
    limits = {"nofile": {"Name": "nofile", "Hard": 2048, "Soft": 1024}, "core": {"Hard": 0, "Soft": 0}}
    for ulimits in (limits, ["nofile=1024:2048", "core=0:0"]):
        flags = ["--default-ulimit", "nofile=1024:2048", "--default-ulimit", "core=0:0"]
        assert _parse_file(tmp_path, {"default-ulimits": ulimits}) == parse_arguments(flags)
    assert _parse_file(tmp_path, {"http-proxy": "x"}) == _parse_file(tmp_path, {"proxies": {"http-proxy": "x"}})


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--storage-quota", "much"], "--storage-quota: invalid size: 'much'"),
        (["--vm-memory", "x"], "--vm-memory: 'x' is not between 64 and 1048576 MiB"),
        (["--volume-store", "x"], "--volume-store: invalid volume store 'x'"),
        (["--syslog-address", "host"], "--syslog-address: invalid syslog-address 'host'"),
        (["--tls-allow", "full:CN=x"], "--tls-allow needs --tlsverify"),
        (["-H", "tcp://127.0.0.1:2375"], "-H tcp://127.0.0.1:2375 without TLS would give .* or --tls=false if that is"),
        (["--tls=maybe"], "--tls: 'maybe' is not true or false"),
        (["--pause-by", "suspend"], "--pause-by suspend needs --hypervisor vsphere"),
    ],
)
def test_wrong_flags(flags: list[str], problem: str) -> None:
    with pytest.raises(InvalidParameter, match=problem):
        parse_arguments(flags)


@pytest.mark.parametrize(
    ("flags", "tls", "tlsverify"),
    [
        (["-H", "unix:///x"], None, False),
        (["-H", "tcp://x:1", "--tls=false"], False, False),
        (["-H", "tcp://x:1", "--tls"], True, False),
        (["-H", "tcp://x:1", "--tlsverify"], True, True),
        (["--tlsverify", "-H", "tcp://x:1"], True, True),
        # As dockerd: TLS without certificates of the clients.
        (["-H", "tcp://x:1", "--tlsverify=false"], True, False),
        (["-H", "tcp://x:1", "--tlsverify", "--tls=false"], True, True),
    ],
)
def test_tls_is_explicit_for_tcp(flags: list[str], tls: bool | None, tlsverify: bool) -> None:
    config = parse_arguments(flags)
    assert (config.tls, config.tlsverify) == (tls, tlsverify)


def test_the_file_may_say_that_no_tls_is_intended(tmp_path: Path) -> None:
    assert _parse_file(tmp_path, {"hosts": ["tcp://x:1"], "tls": False})
    with pytest.raises(InvalidParameter, match="without TLS would give every client"):
        _parse_file(tmp_path, {"hosts": ["tcp://x:1"]})


def test_argparse_refuses_other_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--log-level", "loud"])
    assert "argument -l/--log-level: invalid choice: 'loud'" in capsys.readouterr().err


def test_help_has_every_setting_in_its_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"\n{group}:\n") for group in GROUPS if any(row.group == group for row in DAEMON_SETTINGS)]
    assert places == sorted(places)
    for row in DAEMON_SETTINGS:
        assert row.help in text, row.name
