"""The guest as a CD that boots by BIOS or UEFI, for hypervisors that cannot load a kernel directly (vSphere)."""

import os
import shutil
import subprocess
from pathlib import Path

_CONFIG = """set timeout=0
linux /vmlinuz console=tty0 vch.line=ttyS0 reboot=t panic=-1 quiet rdinit=/init
initrd /initrd
boot
"""
# The time that programs see which write timestamps, so that the same inputs give the same bytes.
_TIME, _EPOCH = ("faketime", "-f", "2025-01-01 00:00:00"), 1735689600
# The GRUB modules that this boot needs, out of two hundred.
_MODULES = "linux normal configfile part_gpt part_msdos iso9660 fat test all_video"


def write_iso(kernel: bytes, initrd: Path, modules: Path, work: Path, target: Path) -> None:
    """Write a boot CD with a bzImage, an initrd, which gets compressed, and the modules disk.

    Needs zstd, grub-mkrescue, xorriso, mtools and faketime.
    """
    root = work / "cd"
    (root / "boot/grub").mkdir(parents=True)
    (root / "boot/grub/grub.cfg").write_text(_CONFIG)
    (root / "vmlinuz").write_bytes(kernel)
    shutil.copyfile(modules, root / "modules.squashfs")
    subprocess.run(["zstd", "-q", "-15", "-T0", "-o", str(root / "initrd"), str(initrd)], check=True)
    command = [
        *_TIME,
        "grub-mkrescue",
        "-o",
        str(target),
        f"--install-modules={_MODULES}",
        "--locales=",
        "--fonts=",
        "--themes=",
        str(root),
        "--",
        "-volid",
        "VCH",
    ]
    for path in (*root.rglob("*"), root):
        os.utime(path, (_EPOCH, _EPOCH))
    environment = {**os.environ, "TZ": "UTC", "SOURCE_DATE_EPOCH": str(_EPOCH)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode or not target.exists():
        raise SystemExit(f"grub-mkrescue: {done.stderr}")
