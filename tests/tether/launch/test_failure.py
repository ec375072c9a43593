"""Failures cross from the child to the tether."""

import errno
import os

import pytest

from tether.launch.failure import Kind, LaunchFailure, step


def test_encoding_keeps_all() -> None:
    failure = LaunchFailure(Kind.NOT_FOUND, "exec", "/bin/é", errno.ENOENT, True)
    again = LaunchFailure.decode(failure.encode())
    assert vars(again) == vars(failure)
    assert str(again) == str(failure) == "exec /bin/é: no such file or directory"


def test_a_step_names_what_failed() -> None:
    with pytest.raises(LaunchFailure) as caught, step("mount /proc", "proc"):
        raise PermissionError(errno.EPERM, "no")
    assert (caught.value.kind, caught.value.step, caught.value.subject) == (Kind.SETUP, "mount /proc", "proc")
    assert caught.value.errno == errno.EPERM


def test_a_step_takes_the_subject_of_the_error() -> None:
    with pytest.raises(LaunchFailure) as caught, step("open", kind=Kind.PERMISSION):
        os.stat("/no/such/file")
    assert (caught.value.kind, caught.value.subject) == (Kind.PERMISSION, "/no/such/file")


def test_a_failure_inside_a_step_stays_as_it_is() -> None:
    inner = LaunchFailure(Kind.NO_SUCH_USER, "user", "x")
    with pytest.raises(LaunchFailure) as caught, step("outer"):
        raise inner
    assert caught.value is inner
