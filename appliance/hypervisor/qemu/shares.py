"""Shares of one machine, served by a virtiofsd that lives as long as the machine's QEMU.

All shares are bind-mounted into one directory, in a mount namespace of virtiofsd's own. A read-only share is read-only on the
host's side, with all mounts below it. The guest can reach nothing but the shares.
"""

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Share
from tether.system.linux import open_in_root

# Debian has QEMU 7.2's C program here. Later versions have the Rust program in PATH.
_PROGRAMS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
# Extended attributes, as rules of virtiofsd: TYPE:SCOPE:NAME IN THE GUEST:NAME ON THE HOST.
# The guest's `trusted.` attributes are `user.vch.trusted.` on the host: overlayfs needs them for its upper directory, and virtiofsd would
# need CAP_SYS_ADMIN to write attributes that really are `trusted.`, which are hidden. The guest's `user.vch.` attributes get the prefix,
# too: without CAP_SYS_ADMIN no process can forge `trusted.` ones, and a vch inside a container can do the same with its volumes. All other
# names are the same on both sides, since volumes of version 0.1 may have any `user.` name, such as the usual prefix `user.virtiofs.`.
_ATTRIBUTES = "".join(
    f":{rule}:"
    for rule in (
        "prefix:all:trusted.:user.vch.",
        "prefix:client:user.vch.:user.vch.",
        "bad:server::trusted.",
        "ok:all::",
    )
)
# A guest may not create device nodes, but virtiofsd needs no capability for a whiteout (mknod c 0 0). File contents are cached as long as
# the file is open: another machine may change a file.
_OPTIONS = f"cache=auto,xattr,xattrmap={_ATTRIBUTES},announce_submounts,modcaps=-mknod,max_idle_threads=1,log_level=err"
# How long a guest keeps names and attributes of shares that it may cache. Each lookup of a name costs a guest without KVM half a
# millisecond, and a path of five names five lookups. 1 s is virtiofsd's own default.
_CACHED_SECONDS = 1
_STAGE = """
set -e
stage=$1; shift
mount -t tmpfs -o size=1m,mode=755 vch "$stage"
while [ "$1" != -- ]; do
    if [ "$2" = d ]; then mkdir "$stage/$1"; else : > "$stage/$1"; fi
    # A namespace can bind only its own mounts. So the source is looked up again by name, and must be the same file.
    mount --no-canonicalize --$5 "$(readlink "/proc/self/fd/$3")" "$stage/$1"
    if [ "$(stat -Lc %d:%i "/proc/self/fd/$3")" != "$(stat -c %d:%i "$stage/$1")" ]; then
        echo "share $1 was replaced meanwhile" >&2; exit 1
    fi
    # Flags that the host's mount has stay: mount(8) adds to them unless a flag says the opposite, as `rw` would.
    mount --no-canonicalize -o "remount,bind,$4" "$stage/$1"
    # The mounts below, too. Root may not see some, such as a user's FUSE file system: then virtiofsd does not see it either.
    findmnt -Rrno TARGET "$stage/$1" | while read -r place; do
        mount --no-canonicalize -o "remount,bind,$4" "$(env printf %b "$place")" || :
    done
    shift 5
done
shift
exec "$@"
"""


def find_virtiofsd() -> str | None:
    return shutil.which("virtiofsd") or next((program for program in _PROGRAMS if os.access(program, os.X_OK)), None)


def cache_seconds(shares: tuple[Share, ...]) -> int:
    """How long a guest keeps names and attributes. There is one virtiofsd for all shares of a machine."""
    return _CACHED_SECONDS if all(share.cached for share in shares) else 0


def serve(folder: Path, shares: tuple[Share, ...]) -> socket.socket:
    """Start virtiofsd for a machine; return the connection for QEMU. HypervisorError when a share cannot be opened."""
    program = find_virtiofsd()
    if program is None:
        raise HypervisorError("virtiofsd is not installed (Debian: qemu-system-common)")
    stage = folder / "shares"
    stage.mkdir(exist_ok=True, mode=0o700)
    place = folder / "fs.sock"
    place.unlink(missing_ok=True)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        stack.callback(connection.close)
        try:
            directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            listener.bind(f"/proc/self/fd/{directory}/fs.sock")
            listener.listen(1)
            connection.connect(f"/proc/self/fd/{directory}/fs.sock")
            arguments, passed = [], [listener.fileno()]
            for number, share in enumerate(shares):
                source = os.open(share.path, os.O_PATH | os.O_CLOEXEC)
                stack.callback(os.close, source)
                if share.part:
                    source = open_in_root(source, share.part, os.O_PATH)
                    stack.callback(os.close, source)
                passed.append(source)
                kind = "d" if os.path.isdir(f"/proc/self/fd/{source}") else "f"
                flags, bind = "nodev,ro" if share.read_only else "nodev", "rbind" if share.recursive else "bind"
                arguments += [str(number), kind, str(source), flags, bind]
            # A machine may have several virtiofsd, and one log.
            log = stack.enter_context(open(folder / "virtiofsd.log", "ab"))
            subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "sh",
                    "-c",
                    _STAGE,
                    "vch-shares",
                    str(stage),
                    *arguments,
                    "--",
                    program,
                    "-f",
                    f"--fd={listener.fileno()}",
                    "-o",
                    f"source={stage},timeout={cache_seconds(shares)},{_OPTIONS}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=passed,
                cwd="/",
            )
        except OSError as error:
            raise HypervisorError(f"cannot share: {error}") from error
        return socket.socket(fileno=os.dup(connection.fileno()))
