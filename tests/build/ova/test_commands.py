"""Programs that the build runs."""

import os
from pathlib import Path

import pytest

from build.ova.commands import run


def test_a_program_gets_its_input_folder_and_environment(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "GREETING": "hello"}
    printed = run("sh", "-c", 'cat; echo "$GREETING"; pwd', cwd=tmp_path, environment=environment, given="given\n")
    assert printed == f"given\nhello\n{tmp_path}\n"


def test_a_failure_ends_the_build_with_its_messages() -> None:
    with pytest.raises(SystemExit, match=r"(?s)sh -c .*: exit status 3\nout\nerror\n"):
        run("sh", "-c", "echo out; echo error >&2; exit 3")
