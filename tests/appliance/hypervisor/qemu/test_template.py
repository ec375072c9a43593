"""Templates on disk: a template is loaded as it was saved, or not at all."""

import os
import resource
import threading
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from appliance.hypervisor import Disk, GuestDisk, MachineSpec
from appliance.hypervisor.qemu.machine import QemuMachine
from appliance.hypervisor.qemu.template import Template, TemplateFolder, blank
from appliance.hypervisor.qemu.templates import Templates
from tether.transport import Line

KEY = "0123456789abcdef"


def _made() -> Template:
    template = blank(KEY, 4)
    os.pwrite(template.memory, b"kernel" * 1000, 70_000)
    os.pwrite(template.memory, b"end", (4 << 20) - 3)
    os.pwrite(template.state, b"devices" * 5000, 0)
    template.seal()
    return template


def _content(template: Template) -> tuple[bytes, bytes]:
    return os.pread(template.memory, 8 << 20, 0), os.pread(template.state, 1 << 20, 0)


def test_what_was_saved_comes_back_sealed(tmp_path: Path) -> None:
    folder = TemplateFolder(tmp_path / "templates")
    assert folder.load(KEY) is None
    made = _made()
    folder.save(made)
    loaded = folder.load(KEY)
    assert loaded is not None
    assert _content(loaded) == _content(made)
    with pytest.raises(PermissionError):
        os.pwrite(loaded.memory, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(loaded.state, 1)
    # Empty memory takes no disk.
    assert (tmp_path / "templates" / KEY / "ram").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "swap", "manifest", "missing", "link", "foreign", "shared"])
def test_one_that_was_tampered_with_is_not_used_and_goes(tmp_path: Path, damage: str) -> None:
    folder = TemplateFolder(tmp_path / "templates")
    folder.save(_made())
    place = tmp_path / "templates" / KEY
    ram, state = place / "ram", place / "state"
    match damage:
        case "flip":
            data = bytearray(ram.read_bytes())
            data[2 << 20] ^= 1
            ram.write_bytes(data)
        case "cut":
            os.truncate(state, 100)
        case "grow":
            os.truncate(ram, 8 << 20)
        case "swap":
            ram.rename(place / "x")
            state.rename(ram)
            (place / "x").rename(state)
        case "manifest":
            (place / "manifest.json").write_text("[]")
        case "missing":
            state.unlink()
        case "link":
            state.rename(tmp_path / "elsewhere")
            state.symlink_to(tmp_path / "elsewhere")
        case "foreign":
            if os.geteuid():
                pytest.skip("only root can give files away")
            os.chown(ram, 12345, -1)
        case "shared":
            place.chmod(0o777)
    assert folder.load(KEY) is None
    assert not place.exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    folder = TemplateFolder(tmp_path / "templates")
    made = _made()
    (tmp_path / "templates").mkdir(mode=0o700)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.save(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "templates").iterdir()) == []


def test_old_ones_and_half_made_ones_are_collected(tmp_path: Path) -> None:
    root = tmp_path / "templates"
    folder = TemplateFolder(root)
    for number in range(10):
        old = root / f"old{number}"
        old.mkdir(parents=True, exist_ok=True)
        os.utime(old, (1000 + number, 1000 + number))
    (root / ".half.999999999").mkdir()
    folder.save(_made())
    assert sorted(path.name for path in root.iterdir()) == [KEY, *(f"old{number}" for number in range(5, 10))]


class _NoMaker:
    accel = version = guest_digest = ""

    def make(self, spec: MachineSpec) -> QemuMachine:
        raise AssertionError("no template is made here")


class _NoRehearsal:
    layer = Path("none")

    def disks(self, folder: Path) -> tuple[Disk, ...]:
        raise AssertionError("no template is made here")

    def perform(self, line: Line, kind: MachineSpec, disks: list[GuestDisk]) -> AbstractAsyncContextManager[trio.Event]:
        raise AssertionError("no template is made here")


def _templates(tmp_path: Path) -> Templates:
    return Templates(_NoMaker(), tmp_path / "templates", _NoRehearsal())


async def test_a_start_waits_for_a_template_that_is_being_read(tmp_path: Path, nursery: trio.Nursery) -> None:
    spec = MachineSpec("any", 256, 1)
    templates = _templates(tmp_path)
    key = templates._key(spec)
    # Without a template on disk the machine boots at once, and so it does while a template is made.
    assert await templates.find(spec) is None
    TemplateFolder(tmp_path / "templates").save(replace(_made(), key=key))
    nursery.start_soon(templates.run)
    with trio.fail_after(10):
        template = await templates.find(spec)
    assert template is not None
    assert template.key == key
    assert await templates.find(spec) is template


async def test_a_start_does_not_wait_long_for_a_template(
    tmp_path: Path, nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MachineSpec("any", 256, 1)
    templates = _templates(tmp_path)
    TemplateFolder(tmp_path / "templates").save(replace(_made(), key=templates._key(spec)))
    goes_on = threading.Event()
    monkeypatch.setattr(TemplateFolder, "load", lambda *_: goes_on.wait(30) and None)
    nursery.start_soon(templates.run)
    async with trio.open_nursery() as finding:

        async def find() -> None:
            assert await templates.find(spec) is None
            goes_on.set()

        finding.start_soon(find)
        await trio.testing.wait_all_tasks_blocked()
        assert not goes_on.is_set()
        mock_clock.jump(11)
    nursery.cancel_scope.cancel()


async def test_a_template_whose_guests_do_not_answer_goes_at_the_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    templates = _templates(tmp_path)
    spec = MachineSpec("any", 256, 1)
    key = templates._key(spec)
    TemplateFolder(tmp_path / "templates").save(replace(_made(), key=key))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(templates.run)
        template = await templates.find(spec)
        assert template is not None
        templates.report_silent(template)
        assert templates.get(spec) is template
        assert caplog.messages == []
        templates.report_silent(template)
        assert templates.get(spec) is None
        assert caplog.messages == [f"template {key} is dropped: 2 restored guests did not answer"]
        assert not (tmp_path / "templates" / key).exists()
        nursery.cancel_scope.cancel()
