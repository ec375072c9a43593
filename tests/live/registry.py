"""Registries for tests: Debian's docker-registry, and a server that misbehaves."""

import base64
import contextlib
import hashlib
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.live.programs import free_port

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@contextlib.contextmanager
def real_registry(
    folder: Path,
    *,
    htpasswd: str = "",
    tokens: dict[str, str] | None = None,
    inside: Sequence[str] = (),
    address: str = "127.0.0.1",
    tls: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """docker-registry on a port of `address`; yields host:port. `htpasswd`: contents of its password file. `tokens`: where it
    sends its clients for a token, and whose tokens it believes (see TokenService).

    `inside` goes before its command: it runs in a network namespace then, on port 5000. `tls`: its certificate and key.
    """
    port = 5000 if inside else free_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"{address}:{port}"},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if tokens is not None:
        config["auth"] = {"token": tokens}
    if tls is not None:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*inside, "docker-registry", "serve", str(folder / "config.json")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            if inside:
                probe = [*inside, "curl", "-sk", "-o", "/dev/null", f"http{'s' if tls else ''}://{address}:{port}/v2/"]
                if not subprocess.run(probe, check=False).returncode:
                    break
            else:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"{address}:{port}"
    finally:
        process.terminate()
        process.wait(10)


class Pusher:
    """Puts blobs and manifests into a registry (distribution-spec, monolithic upload)."""

    def __init__(self, host: str, repository: str, auth: str = "") -> None:
        self._base = f"http://{host}/v2/{repository}"
        self._headers = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}

    def _request(self, method: str, url: str, body: bytes, kind: str) -> str:
        headers = {**self._headers, "Content-Type": kind}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            return str(response.headers.get("Location", ""))

    def blob(self, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        place = self._request("POST", f"{self._base}/blobs/uploads/", b"", "application/octet-stream")
        mark = "&" if "?" in place else "?"
        self._request("PUT", f"{place}{mark}digest={digest}", data, "application/octet-stream")
        return {"digest": digest, "size": len(data)}

    def manifest(self, tag: str, content: dict[str, object]) -> dict[str, object]:
        data = json.dumps(content).encode()
        kind = str(content["mediaType"])
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._request("PUT", f"{self._base}/manifests/{tag or digest}", data, kind)
        return {"mediaType": kind, "digest": digest, "size": len(data)}


def image_manifest(config: bytes, layers: list[bytes], put: Callable[[bytes], dict[str, object]]) -> dict[str, object]:
    """A manifest whose blobs the registry has."""
    kinds = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(config)},
        "layers": [
            {"mediaType": f"application/vnd.oci.image.layer.v1.tar{kinds.get(layer[:2], '')}", **put(layer)}
            for layer in layers
        ],
    }


Told = tuple[int, dict[str, str], bytes, float]


class LyingRegistry:
    """Serve the given answers, byte for byte: {path: (status, headers, body, seconds to wait in the middle)}.

    A list is of answers one after the other. Some headers are orders: `ranges` says that ranges are served, `cut` that the
    connection ends in the middle.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Told | list[Told]] = {}
        self.ranges: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self._over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization", "")))
                path = self.path.partition("?")[0]
                told = outer.answers.get(path, (404, {}, b"{}", 0.0))
                if isinstance(told, list):
                    told = told.pop(0) if len(told) > 1 else told[0]
                status, headers, body, pause = told
                wanted = self.headers.get("Range", "")
                outer.ranges.append(wanted)
                if wanted and "ranges" in headers:
                    status, body = 206, body[int(wanted.removeprefix("bytes=").rstrip("-")) :]
                if "authorization" in headers and self.headers.get("Authorization") != headers["authorization"]:
                    status, body = 401, b"{}"
                    headers = {"WWW-Authenticate": headers["challenge"]}
                self.send_response(status)
                for key, value in headers.items():
                    if key not in ("authorization", "challenge", "ranges", "cut"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    outer._over.wait(pause)
                    if "cut" in headers:
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                    self.wfile.write(body[len(body) // 2 :])

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def told(self) -> list[tuple[str, Told]]:
        """All answers of the server, if they never change."""
        return [(path, told) for path, told in self.answers.items() if isinstance(told, tuple)]

    def __enter__(self) -> "LyingRegistry":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
