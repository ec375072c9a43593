"""An NFS server (nfs-ganesha) in the network namespace of a vchd."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live.daemon import Daemon

# Without an expiration time, ganesha would not see for a minute what a test writes into the exported folder.
_GANESHA = """
NFS_CORE_PARAM {{ Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}
NFSV4 {{ Graceless = true; RecoveryRoot = {root}/recovery; RecoveryBackend = fs; Only_Numeric_Owners = true; }}
EXPORT {{ Export_Id = 1; Path = {root}/export; Pseudo = /export; Access_Type = RW; Squash = No_root_squash; SecType = sys;
  Protocols = 4; Transports = TCP; Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }} }}
"""


@contextlib.contextmanager
def running_nfs(daemon: Daemon, folder: Path) -> Iterator[Path]:
    """The folder that the server exports as /export, on all addresses of the namespace."""
    for name in ("recovery", "export"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "conf").write_text(_GANESHA.format(root=folder))
    command = [
        *daemon.inside(),
        "ganesha.nfsd",
        "-F",
        "-f",
        f"{folder}/conf",
        "-L",
        f"{folder}/log",
        "-p",
        f"{folder}/pid",
    ]
    server = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while ":2049" not in daemon.run_inside("ss", "-ltn"):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield folder / "export"
    finally:
        server.kill()
        server.wait()
