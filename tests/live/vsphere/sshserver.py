"""An SSH server that accepts one key, by paramiko. Commands run on this host.

    python -m tests.live.vsphere.sshserver HOST_KEY AUTHORIZED

prints its public key and serves port 22 until it is killed.
"""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import paramiko


class _Server(paramiko.ServerInterface):
    def __init__(self, authorized: str) -> None:
        self._authorized = authorized
        self.command = ""
        self.asked = threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = f"{key.get_name()} {key.get_base64()}" in self._authorized
        return int(paramiko.AUTH_SUCCESSFUL if known and username == "root" else paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.command = command.decode()
        self.asked.set()
        return True


def _serve(connection: socket.socket, key: paramiko.PKey, authorized: str) -> None:
    with paramiko.Transport(connection) as transport:
        transport.add_server_key(key)
        server = _Server(authorized)
        transport.start_server(server=server)
        channel = transport.accept(30)
        if channel is None or not server.asked.wait(30):
            return
        done = subprocess.run(server.command, shell=True, capture_output=True, check=False)
        channel.sendall(done.stdout)
        channel.sendall_stderr(done.stderr)
        channel.send_exit_status(done.returncode)
        channel.close()


def main() -> None:
    path, authorized = Path(sys.argv[1]), sys.argv[2]
    if not path.exists():
        paramiko.ECDSAKey.generate().write_private_key_file(str(path))
    key = paramiko.ECDSAKey.from_private_key_file(str(path))
    with socket.create_server(("0.0.0.0", 22)) as listener:
        print(f"{key.get_name()} {key.get_base64()}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, key, authorized), daemon=True).start()


if __name__ == "__main__":
    main()
