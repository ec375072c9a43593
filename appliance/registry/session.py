"""Requests to one registry: finds its address (mirrors, HTTPS, HTTP), authenticates, and maps failures of the connection to errors."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin

import httpx

from appliance.errors import ProtocolError, RemoteFailed, VchError
from appliance.registry.auth import Credentials, NoBasicCredentials, authorization
from appliance.registry.destinations import GUARDED, Destinations, same_origin, send_following
from appliance.registry.proxies import Proxies, ProxyTransport
from appliance.registry.wire import (
    IDENTITY,
    ComeBackLater,
    Piece,
    check_encoding,
    in_turns,
    read_at_most,
    verification,
    words_of,
)

_MAX_ANSWER = 4 << 20
_SEARCH = "https://index.docker.io"
_CONNECT_SECONDS = 15

Content = bytes | Callable[[], Piece] | None
"""The body of a request: bytes, or a function that makes a piece of an upload for each attempt."""


class Session:
    """A client of one registry host. See Registry for the arguments."""

    def __init__(
        self,
        host: str,
        credentials: Credentials,
        *,
        insecure: bool,
        stall: float,
        mirrors: Sequence[str],
        certificates: Path | None,
        proxies: Proxies,
    ) -> None:
        self.host = host
        self._credentials = credentials
        address = "registry-1.docker.io" if host == "docker.io" else host
        self._mirrors = [mirror.rstrip("/") for mirror in mirrors]
        self._bases = [f"https://{address}"] + ([f"http://{address}"] if insecure else [])
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(stall, connect=_CONNECT_SECONDS),
            headers={"User-Agent": "vch", **IDENTITY},
            trust_env=False,
            transport=ProxyTransport(proxies, verification(certificates, insecure), httpx.Limits(max_connections=8)),
        )
        # The servers that may see the credentials.
        self._own = _urls([*self._mirrors, *self._bases, *([_SEARCH] if host == "docker.io" else [])])
        self._destinations = Destinations(url.host for url in self._own)
        self._base: str | None = None
        self._authorization: dict[str, str] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def base(self) -> str:
        """The address that has answered, as https://HOST; "" before the first answer."""
        return self._base or ""

    async def get(self, path: str, scopes: str, accept: tuple[str, ...] = ()) -> httpx.Response:
        """Get a document of a bounded size. `scopes` are those of a token, separated by spaces."""
        headers = {"Accept": ", ".join(accept)} if accept else {}
        async with self.request("GET", path, scopes, headers) as response:
            check_encoding(response)
            parts = await read_at_most(in_turns(response.aiter_bytes()), _MAX_ANSWER)
            if parts is None:
                raise ProtocolError(f"registry {self.host} sent more than {_MAX_ANSWER} bytes for {path}")
            return httpx.Response(response.status_code, headers=_without_length(response.headers), content=parts)

    @asynccontextmanager
    async def request(
        self, method: str, path: str, scopes: str, headers: dict[str, str] | None = None, content: Content = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; the body of the answer is not read yet. `path` may be a whole URL: registries send those for uploads."""
        for attempt in range(2):
            given = dict(headers or {})
            if scopes in self._authorization:
                given["Authorization"] = self._authorization[scopes]
            response = await self._send(method, path, given, content() if callable(content) else content)
            try:
                challenge = response.headers.get("www-authenticate", "")
                if response.status_code == 401 and not attempt and self._is_own(str(response.url)):
                    try:
                        answer = await authorization(
                            self._client, self.host, challenge, scopes, self._credentials, self._destinations
                        )
                    except NoBasicCredentials as error:
                        if method != "GET":
                            raise
                        # As dockerd, which asks for the manifest of a tag by HEAD first.
                        verb = "Head" if _is_of_tag(response.url.path) else "Get"
                        raise VchError(f'{verb} "{response.url}": {error}') from error
                    if answer is not None:
                        self._authorization[scopes] = answer
                        continue
                yield response
                return
            finally:
                await response.aclose()

    def _is_own(self, url: str) -> bool:
        """Whether a URL is of the registry itself, and not of a host to which the registry has sent us."""
        own = self._own if self._base is None else _urls([self._base, *self._mirrors])
        return any(same_origin(asked, base) for asked in _urls([url]) for base in own)

    async def _send(
        self, method: str, path: str, headers: dict[str, str], content: bytes | Piece | None
    ) -> httpx.Response:
        foreign = False
        if path.startswith(("http://", "https://")):
            bases = [""]
            foreign = not self._is_own(path)
            if foreign:
                # A signed URL on another host (object storage) needs no credentials, and must not see ours.
                headers.pop("Authorization", None)
        else:
            bases = [self._base] if self._base is not None else [*self._mirrors, *self._bases]
        problem: Exception | None = None
        for base in bases:
            try:
                piece = content if isinstance(content, Piece) else None
                request = self._client.build_request(
                    method, f"{base}{path}", headers=headers, content=None if piece else content
                )
                if piece is not None:
                    request.stream = piece
                if foreign:
                    request.extensions = {**request.extensions, GUARDED: self._destinations}
                response = await send_following(self._client, request, self._destinations)
            except httpx.TooManyRedirects as error:
                raise ProtocolError(f"registry {self.host} redirects without end") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = error
                continue
            if base in self._mirrors and response.status_code >= 400 and response.status_code != 401:
                # The registry itself may have what the mirror lacks.
                await response.aclose()
                problem = RemoteFailed(f"mirror {base}: {response.status_code}")
                continue
            if base and base not in self._mirrors:
                self._base = base
            return response
        where = f"{bases[-1]}/v2/" if bases[-1] else path
        text = f'{method.capitalize()} "{where}": {words_of(problem)}'
        # Retry only a registry that has answered before.
        raise (ComeBackLater(text) if self._base is not None else RemoteFailed(text)) from problem

    @asynccontextmanager
    async def guarded(
        self, method: str, path: str, scopes: str, headers: dict[str, str] | None = None, content: Content = None
    ) -> AsyncIterator[httpx.Response]:
        """As `request`, but a failure while the answer is read is ComeBackLater."""
        try:
            async with self.request(method, path, scopes, headers, content) as response:
                yield response
        except httpx.HTTPError as error:
            raise ComeBackLater(f"{method} to {self.host}: {words_of(error)}") from error

    def absolute(self, place: str) -> str:
        """The URL of an upload; the registry may send a relative one."""
        if not place:
            raise ProtocolError(f"registry {self.host} sent no Location for an upload")
        try:
            return urljoin(f"{self._base}/", place)
        except ValueError as error:
            raise ProtocolError(f"registry {self.host} sent an invalid Location for an upload: {error}") from error


def _urls(texts: Iterable[str]) -> list[httpx.URL]:
    found = []
    for text in texts:
        # Requests to an address that is not a URL fail with httpx's text.
        with suppress(httpx.InvalidURL):
            found.append(httpx.URL(text))
    return found


def _is_of_tag(path: str) -> bool:
    """Whether the path is that of a manifest by its tag, not by its digest."""
    _, found, name = path.rpartition("/manifests/")
    return bool(found and name) and ":" not in name


def _without_length(headers: httpx.Headers) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key not in ("content-length", "transfer-encoding")}
