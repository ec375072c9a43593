"""A token service as registries send their clients to (distribution's docs/spec/auth/token.md and oauth2.md)."""

import base64
import contextlib
import http.server
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.live.certificates import self_signed


@dataclass
class TokenService:
    """Users are {name: (password, actions they have)}; "" is an anonymous client. `seconds` is how long a token is valid."""

    folder: Path
    users: dict[str, tuple[str, set[str]]]
    seconds: int = 300
    # (user, requested scopes)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    realm: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        """Yield the registry's settings for this token service."""
        certificate, key = self_signed(self.folder, "127.0.0.1", rsa=True)
        self._key = serialization.load_pem_private_key(key.read_bytes(), None)
        der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
        self._chain = [base64.b64encode(der).decode()]
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                kind, _, text = self.headers.get("Authorization", "").partition(" ")
                name, _, password = base64.b64decode(text).decode().partition(":") if kind == "Basic" else ("", "", "")
                known = outer.users.get(name)
                self.answer(name if known is not None and known[0] == password else None, query)

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                name = form.get("refresh_token", [""])[0].removeprefix("refresh-")
                query = {**form, "scope": form.get("scope", [""])[0].split()}
                self.answer(name if name in outer.users else None, query)

            def answer(self, name: str | None, query: dict[str, list[str]]) -> None:
                if name is None:
                    self.send_response(401)
                    self.end_headers()
                    return
                body = json.dumps({"token": outer.token(name, query), "expires_in": outer.seconds}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            self.realm = f"http://127.0.0.1:{server.server_address[1]}/token"
            yield {
                "realm": self.realm,
                "service": "registry",
                "issuer": "vch tests",
                "rootcertbundle": str(certificate),
            }
            server.shutdown()

    def token(self, name: str, query: dict[str, list[str]]) -> str:
        """A JSON web token (RFC 7519) that grants the requested actions that the user has."""
        scopes = query.get("scope", [])
        self.asked.append((name, scopes))
        access: list[dict[str, Any]] = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            resource, _, actions = rest.rpartition(":")
            granted = sorted(set(actions.split(",")) & self.users[name][1])
            access.append({"type": kind, "name": resource, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": "vch tests",
            "sub": name,
            "aud": query["service"][0],
            "exp": now + self.seconds,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        head = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        signed = b".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        assert isinstance(self._key, rsa.RSAPrivateKey)
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _encoded(signature)).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
