"""Root's password (shadow(5)) on an appliance whose root file system is read-only."""

import subprocess
from pathlib import Path

_SHADOW = Path("/etc/shadow")


def hash_of(password: str) -> str:
    """The SHA-512 crypt(5) hash of the password, by openssl. OSError or CalledProcessError when openssl fails."""
    command = ["openssl", "passwd", "-6", "-stdin"]
    done = subprocess.run(command, input=password, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def set_root_password(hashed: str, file: Path) -> None:
    """Write a copy of /etc/shadow in which root has this password hash, and bind-mount the copy over the original."""
    lines = [line for line in _SHADOW.read_text().splitlines() if not line.startswith("root:")]
    file.touch(mode=0o600)
    file.write_text("\n".join([f"root:{hashed}:19000:0:99999:7:::", *lines, ""]))
    subprocess.run(["mount", "--bind", str(file), str(_SHADOW)], check=True)
