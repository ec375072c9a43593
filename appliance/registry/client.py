"""Manifests and blobs from a registry, with token or basic authentication, over HTTPS or, where allowed, HTTP."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from appliance.errors import NotFound, ProtocolError, Unauthorized, Unavailable

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MAX_MANIFEST = 4 << 20
# A registry that says nothing for so long is given up.
STALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str = ""
    password: str = ""
    identity_token: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    content: bytes
    media_type: str
    digest: str


class Registry:
    """One registry host. `insecure`: plain HTTP, or HTTPS that need not prove itself."""

    def __init__(
        self, host: str, credentials: Credentials, *, insecure: bool, stall: float = STALL_SECONDS, mirror: str = ""
    ) -> None:
        self._host = host
        self._credentials = credentials
        address = "registry-1.docker.io" if host == "docker.io" else host
        self._bases = [mirror.rstrip("/")] if mirror else []
        self._bases += [f"https://{address}"] + ([f"http://{address}"] if insecure else [])
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(stall, connect=15), follow_redirects=True, verify=not insecure,
            headers={"User-Agent": "vch"}, limits=httpx.Limits(max_connections=8),
        )  # fmt: skip
        self._base: str | None = None
        self._authorization: dict[str, str] = {}

    async def __aenter__(self) -> "Registry":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    # -- authentication -------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Find the registry's address and check the credentials: docker login."""
        response = await self._get("/v2/", "")
        if response.status_code == 401:
            raise Unauthorized(f"login attempt to {self._base}/v2/ failed with status: 401 Unauthorized")

    async def _authorize(self, challenge: str, scope: str) -> bool:
        """Answer a WWW-Authenticate challenge (RFC 9110; Docker's token specification). False: nothing to offer."""
        kind, _, rest = challenge.partition(" ")
        known = self._credentials
        if kind.lower() == "basic":
            if not known.username:
                return False
            self._authorization[scope] = httpx.BasicAuth(known.username, known.password)._auth_header
            return True
        if kind.lower() != "bearer":
            return False
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise ProtocolError(f"registry {self._host} sent an authentication realm that is no address")
        parameters = {key: fields[key] for key in ("service", "scope") if key in fields}
        auth = httpx.BasicAuth(known.username, known.password) if known.username else None
        try:
            if known.identity_token:
                form = {
                    **parameters,
                    "grant_type": "refresh_token",
                    "refresh_token": known.identity_token,
                    "client_id": "vch",
                }
                response = await self._client.post(realm, data=form)
            else:
                response = (
                    await self._client.get(realm, params=parameters, auth=auth)
                    if auth
                    else await self._client.get(realm, params=parameters)
                )
        except httpx.HTTPError as error:
            raise Unavailable(f"cannot get a token for {self._host}: {error!r}") from error
        if response.status_code in (401, 403):
            raise Unauthorized(f"unauthorized: incorrect username or password for {self._host}")
        try:
            answer = response.json()
            token = answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, AttributeError) as error:
            raise ProtocolError(f"the token service of {self._host} sent no token") from error
        self._authorization[scope] = f"Bearer {token}"
        return True

    # -- requests -------------------------------------------------------------------------------------------------

    async def _get(self, path: str, scope: str, accept: tuple[str, ...] = ()) -> httpx.Response:
        async with self._stream(path, scope, accept) as response:
            length = 0
            parts = []
            async for piece in response.aiter_bytes():
                length += len(piece)
                if length > _MAX_MANIFEST:
                    raise ProtocolError(f"registry {self._host} sent more than {_MAX_MANIFEST} bytes for {path}")
                parts.append(piece)
            return httpx.Response(response.status_code, headers=_plain(response.headers), content=b"".join(parts))

    @asynccontextmanager
    async def _stream(self, path: str, scope: str, accept: tuple[str, ...] = ()) -> AsyncIterator[httpx.Response]:
        for attempt in range(2):
            headers = {"Accept": ", ".join(accept)} if accept else {}
            if scope in self._authorization:
                headers["Authorization"] = self._authorization[scope]
            response = await self._send(path, headers)
            try:
                challenge = response.headers.get("www-authenticate", "")
                if response.status_code == 401 and not attempt and await self._authorize(challenge, scope):
                    continue
                yield response
                return
            finally:
                await response.aclose()

    async def _send(self, path: str, headers: dict[str, str]) -> httpx.Response:
        problem: Exception | None = None
        for base in [self._base] if self._base else self._bases:
            try:
                request = self._client.build_request("GET", f"{base}{path}", headers=headers)
                response = await self._client.send(request, stream=True)
            except httpx.HTTPError as error:
                problem = error
                continue
            self._base = base
            return response
        reason = str(problem) or type(problem).__name__
        raise Unavailable(f'Get "{self._bases[0]}/v2/": {reason}') from problem

    def _check(self, status: int, what: str) -> None:
        if status in (401, 403):
            raise NotFound(
                f"pull access denied for {what}, repository does not exist or may require 'docker login': denied: "
                "requested access to the resource is denied"
            )
        if status == 404:
            raise NotFound(f"manifest for {what} not found: manifest unknown: manifest unknown")
        if status == 429:
            raise Unavailable("toomanyrequests: the registry asks to come back later")
        if status >= 400:
            raise Unavailable(f"received unexpected HTTP status {status} from {self._host} for {what}")

    async def manifest(self, repository: str, reference: str, shown: str) -> Manifest:
        """A manifest or index by tag or digest; `shown` names it in errors. The digest is the registry's claim."""
        scope = f"repository:{repository}:pull"
        try:
            response = await self._get(f"/v2/{repository}/manifests/{reference}", scope, MANIFEST_TYPES)
        except httpx.HTTPError as error:
            raise Unavailable(f"cannot read the manifest of {shown}: {error!r}") from error
        self._check(response.status_code, shown)
        kind = response.headers.get("content-type", "").partition(";")[0]
        return Manifest(response.content, kind, response.headers.get("docker-content-digest", ""))

    @asynccontextmanager
    async def blob(self, repository: str, digest: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a blob as they come. Unavailable when the registry fails or stalls."""
        scope = f"repository:{repository}:pull"
        async with self._stream(f"/v2/{repository}/blobs/{digest}", scope) as response:
            self._check(response.status_code, f"{repository}@{digest}")

            async def pieces() -> AsyncIterator[bytes]:
                try:
                    async for piece in response.aiter_raw(1 << 18):
                        yield piece
                except httpx.HTTPError as error:
                    raise Unavailable(
                        f"reading {digest} from {self._host}: {str(error) or type(error).__name__}"
                    ) from error

            yield pieces()


def _plain(headers: httpx.Headers) -> dict[str, str]:
    return {
        key: value
        for key, value in headers.items()
        if key not in ("content-encoding", "content-length", "transfer-encoding")
    }
