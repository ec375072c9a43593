"""A proxy in front of vcsim that misbehaves: it loses answers, closes connections, answers with faults, and delays answers."""

import contextlib
import ctypes
import hashlib
import http.client
import http.server
import queue
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.certificates import self_signed
from tests.live.vsphere.simulator import Simulator

_FAULT = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
    "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{text}</faultstring><detail>"
    '<{name}Fault xmlns="urn:vim25" xsi:type="{name}">{fields}</{name}Fault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>'
)
_FIELDS = {
    "TaskInProgress": '<task type="Task">task-1</task>',
    "NoPermission": '<object type="ResourcePool">resgroup-1</object><privilegeId>VirtualMachine.Inventory.Create</privilegeId>',
    "NoDiskSpace": "<file>[ds] x</file><datastore>ds</datastore>",
    "ManagedObjectNotFound": '<obj type="VirtualMachine">vm-1</obj>',
    "InvalidPowerState": "<requestedState>poweredOn</requestedState><existingState>poweredOff</existingState>",
}
_CLONE_NEWNET = 0x40000000
# What the proxy does to a call instead of passing it on.
LOSE_ANSWER, CLOSE_BEFORE, DELAY = "lose the answer", "close before", "delay"


@dataclass
class FaultProxy:
    """`rules`: what the proxy does to the next calls of a method: a constant from above, or the name of a fault. Each is used once."""

    simulator: Simulator
    rules: list[tuple[str, str]] = field(default_factory=list)
    # (method, text of its answers, replacement): applied to every answer.
    rewrites: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    # The methods that were called, in order.
    calls: list[str] = field(default_factory=list)
    address: str = ""
    thumbprint: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_rule(self, method: str) -> str:
        with self._lock:
            self.calls.append(method)
            for index, (name, what) in enumerate(self.rules):
                if name == method:
                    del self.rules[index]
                    return what
        return ""


@contextlib.contextmanager
def running_proxy(simulator: Simulator, folder: Path, namespace: str = "") -> Iterator[FaultProxy]:
    """A proxy before a simulator, in its network namespace, with a certificate of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    host = simulator.address.rpartition(":")[0]
    certificate, key = self_signed(folder, host)
    proxy = FaultProxy(simulator)
    there = ssl.create_default_context(cafile=simulator.certificate)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120
        # Send an answer as one packet, and without Nagle's wait for an acknowledgement.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = re.search(rb"<soapenv:Body><(?:\w+:)?(\w+)", body)
            self._pass_on(found[1].decode() if found else "", body)

        def do_PUT(self) -> None:
            self._pass_on("PUT", self.rfile.read(int(self.headers["Content-Length"])))

        def do_HEAD(self) -> None:
            self._pass_on("HEAD", b"")

        def do_GET(self) -> None:
            self._pass_on("GET", b"")

        def _pass_on(self, name: str, body: bytes) -> None:
            what = proxy.take_rule(name)
            if what == CLOSE_BEFORE:
                self.close_connection = True
                return
            if what == DELAY:
                time.sleep(0.5)
                what = ""
            if what and what != LOSE_ANSWER:
                fault = _FAULT.format(name=what, text=f"injected {what}", fields=_FIELDS.get(what, ""))
                self._answer(500, [("Content-Type", "text/xml")], fault.encode())
                return
            connection = http.client.HTTPSConnection(simulator.address, context=there, timeout=120)
            try:
                headers = {key: value for key, value in self.headers.items() if key not in ("Host", "Accept-Encoding")}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                said = answer.read()
            except OSError:
                self.close_connection = True
                return
            finally:
                connection.close()
            if what == LOSE_ANSWER:
                self.close_connection = True
                return
            length = int(answer.headers.get("Content-Length") or len(said))
            for method, found, instead in proxy.rewrites:
                if method == name and found in said:
                    said = said.replace(found, instead)
                    length = len(said)
            kept = [pair for pair in answer.getheaders() if pair[0] in ("Content-Type", "Set-Cookie")]
            self._answer(answer.status, kept, said, length)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int = 0) -> None:
            try:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(length or len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            connection, address = self.socket.accept()
            connection.settimeout(120)
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, request: object, client_address: object) -> None: ...

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    servers: queue.Queue[Server] = queue.Queue()

    def serve() -> None:
        # setns(2) changes the network namespace of this thread, and of the threads that it starts.
        if namespace:
            with open(f"/run/netns/{namespace}") as there:
                if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
        with Server((host, 0), Handler) as server:
            servers.put(server)
            server.serve_forever(poll_interval=0.02)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    server = servers.get(timeout=10)
    proxy.address = f"{host}:{server.server_address[1]}"
    proxy.thumbprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
    yield proxy
    server.shutdown()
    thread.join()
