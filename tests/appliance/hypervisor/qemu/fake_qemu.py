#!/usr/bin/python3
"""A program that behaves as QEMU towards the driver, but runs no guest. Its channel says HELLO to each client."""

import array
import json
import os
import re
import socket
import sys
import threading

_state = {"running": "-incoming" not in sys.argv}
# What QEMU has: ids of devices, names of block nodes, ids of sets of descriptors.
_devices = set(re.findall(r"\bid=(card[0-9]+|fs)\b", " ".join(sys.argv)))
_nodes = {json.loads(word)["node-name"] for word in sys.argv if word.startswith("{")}
_sets = {int(word.partition("set=")[2]) for word in sys.argv if re.match("fd=[0-9]+,set=", word)}


def _serve_channel(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        client.sendall(b"HELLO")
        threading.Thread(target=_read_until_closed, args=(client,), daemon=True).start()


def _read_until_closed(client: socket.socket) -> None:
    with client:
        while client.recv(4096):
            pass


def _block(command: str, arguments: dict[str, str]) -> None:
    """Block nodes and descriptors. ValueError with QEMU's words."""
    name, number = arguments.get("node-name", ""), int(arguments.get("fdset-id", -1))
    if command == "add-fd":
        _sets.add(number)
    elif command == "remove-fd":
        if number not in _sets:
            raise ValueError(f"File descriptor named 'fdset-id:{number}' not found")
        _sets.remove(number)
    elif command == "blockdev-add":
        if name in _nodes:
            raise ValueError(f"Duplicate nodes with node-name='{name}'")
        _nodes.add(name)
    elif command == "blockdev-del":
        if name not in _nodes:
            raise ValueError(f"Failed to find node with node-name='{name}'")
        _nodes.remove(name)


def _answer(command: str, arguments: dict[str, str], files: list[int]) -> tuple[object, list[dict[str, object]]]:
    """What a command returns, and the events that follow."""
    if command == "query-status":
        return {"running": _state["running"], "status": "running" if _state["running"] else "paused"}, []
    if command == "query-migrate":
        return {"status": "completed"}, []
    if command == "migrate":
        os.write(files[-1], b"the state of the devices")
    if command == "migrate-incoming":
        _state["running"] = True
        return {}, [{"event": "RESUME"}]
    if command in ("stop", "cont"):
        _state["running"] = command == "cont"
    if command == "device_add" and arguments.get("mac") == "nonsense":
        raise ValueError("bad MAC address")
    _block(command, arguments)
    if command == "query-named-block-nodes":
        return [{"node-name": name} for name in sorted(_nodes)], []
    if command == "query-fdsets":
        return [{"fdset-id": number} for number in sorted(_sets)], []
    if command == "device_add" and "id" in arguments:
        _devices.add(arguments["id"])
    if command == "device_del":
        if arguments["id"] not in _devices:
            raise ValueError(f"Device '{arguments['id']}' not found")
        _devices.remove(arguments["id"])
        return {}, [{"event": "DEVICE_DELETED", "data": {"device": arguments["id"]}}]
    return {}, []


def _serve_monitor(listener: socket.socket) -> None:
    if "FAKE_QEMU_HANGS" in os.environ:
        threading.Event().wait()
    while True:
        client, _ = listener.accept()
        client.sendall(b'{"QMP": {"version": {}}}\n')
        buffer = b""
        files: list[int] = []
        while True:
            data, ancillary, _, _ = client.recvmsg(65536, socket.CMSG_SPACE(64))
            for _, _, raw in ancillary:
                found: array.array[int] = array.array("i")
                found.frombytes(raw)
                files += found
            if not data:
                break
            buffer += data
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                request = json.loads(line)
                try:
                    value, events = _answer(request["execute"], request.get("arguments") or {}, files)
                    messages: list[dict[str, object]] = [{"return": value}, *events]
                except ValueError as error:
                    messages = [{"error": {"desc": str(error)}}]
                for message in messages:
                    client.sendall(json.dumps(message).encode() + b"\n")
        client.close()


def _main() -> None:
    if "--version" in sys.argv:
        print("QEMU emulator version 7.2.0 (fake)")
        return
    text = " ".join(sys.argv)
    for name, serve in (("monitor", _serve_monitor), ("tether", _serve_channel)):
        found = re.search(f"id={name},fd=([0-9]+)", text)
        assert found is not None
        listener = socket.socket(fileno=int(found[1]))
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    _main()
