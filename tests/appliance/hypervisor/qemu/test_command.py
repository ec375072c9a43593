"""QEMU's command line and the objects of its monitor, without a process."""

from dataclasses import replace
from pathlib import Path

from appliance.hypervisor import Disk, Forward, MachineSpec, Nic, ScsiAddress, Share
from appliance.hypervisor.qemu.command import (
    BOOT,
    MOST_MORE_NICS,
    MOST_MORE_SHARES,
    MOST_PCI_DEVICES,
    SLOTS,
    Descriptors,
    DiskPlace,
    Origin,
    Placed,
    clone_origin,
    command,
    disk_device,
    file_node,
    forward_command,
    netdev_of,
    nics_of,
    saved_origin,
    share_chardev,
    share_device,
    shared_boot_origin,
    template_origin,
    unforward_command,
)
from appliance.hypervisor.qemu.templates import kind_of

_USER = Nic("02:42:00:00:00:01", "10.0.0.0/24", "10.0.0.1", "10.0.0.2")
_BRIDGED = Nic("02:42:00:00:00:02", bridge="br0")
_FORWARD = Forward("tcp", "127.0.0.1", 8080, "10.0.0.9", 80)


def _argv(spec: MachineSpec, origin: Origin = BOOT, **descriptors: object) -> list[str]:
    found = replace(Descriptors(3, 4, ()), **descriptors)  # type: ignore[arg-type]
    return command("qemu", "tcg", Path("k"), Path("i"), spec, origin, found, Path("con"))


def _options(argv: list[str], name: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == name]


def test_the_command_line_names_no_container() -> None:
    """Everything of a container comes over the channel, so that a restored machine can become any container's."""
    spec = MachineSpec("c" * 64, 256, 2, (Disk(Path("/secret/layer"), True), Disk(Path("/secret/upper"), False)))
    argv = _argv(spec, disks=(Placed(0, 5, True), Placed(1, 6, False)))
    text = " ".join(argv)
    assert "/secret" not in text
    assert text.count("scsi-hd") == 2
    assert "fd=5,set=1" in text
    assert '"read-only": true' in text
    assert "-smp 2" in text
    assert "thread=multi" in text


def test_the_process_is_sandboxed_and_named() -> None:
    argv = _argv(MachineSpec("abc" * 20, 256, 1))
    assert _options(argv, "-name") == ["vch-abcabcabcabc"]
    assert _options(argv, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


def test_every_machine_has_the_modules_disk_in_one_pci_slot() -> None:
    for origin in (BOOT, template_origin(7), clone_origin(8, shares=True), saved_origin(slotted=True)):
        argv = _argv(MachineSpec("m", 256, 1, nic=_USER), origin, modules=12)
        assert "fd=12,set=0" in _options(argv, "-add-fd")
        (device,) = (one for one in _options(argv, "-device") if one.startswith("virtio-blk"))
        assert device == "virtio-blk-pci,drive=modules,serial=vch-modules,bus=pci.0,addr=0xe"


def test_a_pci_device_of_the_host_keeps_all_memory() -> None:
    argv = _argv(MachineSpec("m", 256, 1, nic=_USER, pci_devices=("0000:01:00.0", "0000:02:00.1")))
    devices = [device for device in _options(argv, "-device") if device.startswith("vfio")]
    assert devices == [
        "vfio-pci,id=host0,host=0000:01:00.0,bus=pci.0,addr=0x6",
        "vfio-pci,id=host1,host=0000:02:00.1,bus=pci.0,addr=0x7",
    ]
    assert "balloon" not in " ".join(argv)
    assert "balloon" in " ".join(_argv(MachineSpec("m", 256, 1)))


def test_no_two_devices_have_one_pci_slot() -> None:
    spec = MachineSpec("m", 256, 1, nic=_USER, pci_devices=("0000:01:00.0",) * MOST_PCI_DEVICES)
    spec = replace(spec, more_nics=(_USER,) * MOST_MORE_NICS)
    slots = [
        device.rpartition("addr=")[2] for device in _options(_argv(spec, shares=5), "-device") if "addr=" in device
    ]
    assert len(set(slots)) == len(slots)
    # The devices without a slot of their own are behind the chipset's two.
    free = [device for device in _options(_argv(spec), "-device") if "-pci" in device and "addr=" not in device]
    assert 2 + len(free) <= min(int(slot, 16) for slot in slots)


def test_each_nic_has_its_pci_slot() -> None:
    spec = MachineSpec("m", 256, 1, nic=_USER, more_nics=(None, _BRIDGED))
    assert [place for place, _ in nics_of(spec)] == [0, 2]
    argv = _argv(spec, taps={2: 9})
    netdevs = _options(argv, "-netdev")
    assert netdevs[0].startswith("user,id=net0,ipv6=off,net=10.0.0.0/24,host=10.0.0.1,dns=10.0.0.2")
    assert netdevs[1] == "tap,id=net2,fd=9"
    devices = [device for device in _options(argv, "-device") if device.startswith("virtio-net-pci")]
    assert [device.rpartition("addr=")[2] for device in devices] == ["0x10", "0x12"]


def test_forwards_are_rules_of_qemus_user_network() -> None:
    netdev = netdev_of(0, replace(_USER, forwards=(_FORWARD,)), "")
    assert netdev["hostfwd"] == [{"str": "tcp:127.0.0.1:8080-10.0.0.9:80"}]
    assert forward_command(1, _FORWARD) == "hostfwd_add net1 tcp:127.0.0.1:8080-10.0.0.9:80"
    assert unforward_command(1, _FORWARD) == "hostfwd_remove net1 tcp:127.0.0.1:8080"


def test_a_template_and_its_clone_have_the_same_slots() -> None:
    spec = MachineSpec("m", 256, 1)
    template, clone = _argv(spec, template_origin(7)), _argv(spec, clone_origin(8, shares=False))
    for argv in (template, clone):
        assert sum(device.startswith("scsi-hd") for device in _options(argv, "-device")) == SLOTS
        # Punching holes would change memory that all clones share.
        assert not any("balloon" in device for device in _options(argv, "-device"))
    assert "-incoming" not in template
    assert _options(clone, "-incoming") == ["defer"]
    assert "share=on" in " ".join(template)
    assert "share=off" in " ".join(clone)


def test_what_is_plugged_in_later_changes_no_command_line() -> None:
    """The command line is the key of a template, and decides which machine a saved state fits."""
    spec = MachineSpec("m", 256, 1, nic=_USER)
    grown = replace(
        spec, more_disks=(None, Disk(Path("/d"), True)), more_shares=((Share(Path("/s"), True),),), grows=True
    )
    for origin in (BOOT, template_origin(7), clone_origin(8, shares=True), saved_origin(slotted=True)):
        assert _argv(grown, origin) == _argv(spec, origin)
    assert kind_of(grown) == kind_of(spec)


def test_disks_that_are_plugged_in_later_have_names_and_a_target_of_their_own() -> None:
    first, later = DiskPlace(3), DiskPlace(3, later=True)
    assert (first.address, later.address) == (ScsiAddress(0, 0, 3), ScsiAddress(0, 1, 3))
    assert disk_device(first) == {
        "driver": "scsi-hd",
        "drive": "disk3",
        "bus": "scsi.0",
        "channel": 0,
        "scsi-id": 0,
        "lun": 3,
    }
    assert disk_device(later) == disk_device(first) | {"drive": "more3", "scsi-id": 1, "id": "more3"}
    # The largest machine has fewer than a thousand sets of descriptors otherwise.
    assert (file_node(first)["filename"], file_node(later)["filename"]) == ("/dev/fdset/4", "/dev/fdset/1003")


def test_shares_that_are_plugged_in_later_have_the_pci_slots_after_the_nics() -> None:
    devices = [share_device(number) for number in range(MOST_MORE_SHARES + 1)]
    assert [device["addr"] for device in devices] == ["0xf", "0x19", "0x1a", "0x1b", "0x1c", "0x1d", "0x1e"]
    assert [device["tag"] for device in devices[:3]] == ["vch", "vch1", "vch2"]
    assert (devices[0]["id"], devices[0]["chardev"], share_chardev("fd")["id"]) == ("fs", "shares", "shares")
    assert share_chardev("fd", 2)["id"] == devices[2]["chardev"] == "shares2"


def test_memory_for_shares_and_for_a_saved_state() -> None:
    spec = MachineSpec("m", 256, 1)
    assert "mem-path=/proc/self/fd/7,share=on" in " ".join(_argv(spec, shared_boot_origin(7), shares=5))
    saved = _argv(spec, saved_origin(slotted=False))
    assert _options(saved, "-incoming") == ["defer"]
    assert "memory-backend-ram,id=ram,size=256M,reserve=off" in saved
