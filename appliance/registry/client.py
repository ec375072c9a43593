"""A registry of images (OCI distribution-spec 1.1): pull, push and search.

Token or basic authentication, over HTTPS, or over HTTP where the operator allows it.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import httpx
import msgspec
import trio

from appliance.errors import NotFound, ProtocolError, RemoteFailed, Unauthorized, VchError
from appliance.registry.auth import Credentials
from appliance.registry.proxies import NO_PROXIES, Proxies
from appliance.registry.session import Session
from appliance.registry.wire import PIECE, ComeBackLater, Piece, Sent, decode_untrusted, in_turns, retry_after, words_of

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# Seconds without a byte after which a registry has failed.
STALL_SECONDS = 30.0
_MAX_TAGS = 100_000
_MAX_PAGES = 10_000
_CHUNK = 8 << 20
_UPLOAD_FAILURES = 4
_UPLOAD_PAUSE = 0.25
_EMPTY = {"Content-Length": "0"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index. `digest` is what the registry claims, "" if it claims nothing."""

    content: bytes
    media_type: str
    digest: str


class SearchResult(msgspec.Struct):
    """An image that a search has found (API: ImageSearchResponseItem)."""

    description: str | None = ""
    is_official: bool | None = False
    is_automated: bool | None = False
    name: str | None = ""
    star_count: int | None = 0


class _SearchAnswer(msgspec.Struct):
    results: list[SearchResult]


class _TagsAnswer(msgspec.Struct):
    tags: list[Annotated[str, msgspec.Meta(max_length=128)]] | None = None


class Registry:
    """One registry host. `insecure`: plain HTTP, or HTTPS without a valid certificate. `certificates`: its folder in certs.d."""

    def __init__(
        self,
        host: str,
        credentials: Credentials,
        *,
        insecure: bool,
        stall: float = STALL_SECONDS,
        mirrors: Sequence[str] = (),
        certificates: Path | None = None,
        proxies: Proxies = NO_PROXIES,
    ) -> None:
        self.host = host
        self._session = Session(
            host,
            credentials,
            insecure=insecure,
            stall=stall,
            mirrors=mirrors,
            certificates=certificates,
            proxies=proxies,
        )

    async def __aenter__(self) -> "Registry":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ping(self) -> None:
        """Find the registry's address and check the credentials, for `docker login`."""
        response = await self._session.get("/v2/", "")
        if response.status_code == 401:
            raise Unauthorized(f"login attempt to {self._session.base}/v2/ failed with status: 401 Unauthorized")
        if response.status_code >= 400:
            raise RemoteFailed(f"login attempt to {self._session.base}/v2/ failed with status: {response.status_code}")

    def _check(self, response: httpx.Response, what: str) -> None:
        status = response.status_code
        if status in (401, 403):
            raise NotFound(
                f"pull access denied for {what}, repository does not exist or may require 'docker login': denied: "
                "requested access to the resource is denied"
            )
        if status == 404:
            raise NotFound(f"manifest for {what} not found: manifest unknown: manifest unknown")
        if status == 429:
            raise ComeBackLater("toomanyrequests: the registry asks to come back later", retry_after(response))
        if status >= 500:
            raise ComeBackLater(
                f"received unexpected HTTP status {status} from {self.host} for {what}", retry_after(response)
            )
        if status >= 400:
            raise RemoteFailed(f"received unexpected HTTP status {status} from {self.host} for {what}")

    # -- pull -----------------------------------------------------------------------------------------------------

    async def manifest(self, repository: str, reference: str, shown: str) -> Manifest:
        """Fetch a manifest or index by tag or digest, unverified: the digest is the registry's claim. `shown` names it in errors."""
        scope = f"repository:{repository}:pull"
        try:
            response = await self._session.get(f"/v2/{repository}/manifests/{reference}", scope, MANIFEST_TYPES)
        except httpx.HTTPError as error:
            raise ComeBackLater(f"cannot read the manifest of {shown}: {error!r}") from error
        self._check(response, shown)
        kind = response.headers.get("content-type", "").partition(";")[0]
        return Manifest(response.content, kind, response.headers.get("docker-content-digest", ""))

    async def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        scope = f"repository:{repository}:pull"
        path = f"/v2/{repository}/tags/list"
        found: list[str] = []
        pages = 0
        while path:
            pages += 1
            if pages > _MAX_PAGES:
                raise ProtocolError(f"registry {self.host} sent more than {_MAX_PAGES} pages of tags")
            try:
                response = await self._session.get(path, scope)
                self._check(response, repository)
                found += decode_untrusted(response.content, _TagsAnswer).tags or []
            except httpx.HTTPError as error:
                raise ComeBackLater(f"cannot list the tags of {repository}: {error!r}") from error
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ProtocolError(f"registry {self.host} sent no list of tags") from error
            if len(found) > _MAX_TAGS:
                raise ProtocolError(f"repository {repository} has more than {_MAX_TAGS} tags")
            # The next page (RFC 8288): <path>; rel="next"
            match = re.match(r'<([^>]+)>;\s*rel="?next"?', response.headers.get("link", ""))
            path = match[1] if match and match[1] != path else ""
        return found

    @asynccontextmanager
    async def blob(self, repository: str, digest: str, start: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream the bytes of a blob from `start` on. ComeBackLater when the registry fails or stalls."""
        scope = f"repository:{repository}:pull"
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._session.request("GET", f"/v2/{repository}/blobs/{digest}", scope, headers) as response:
            self._check(response, f"{repository}@{digest}")
            skip = start if response.status_code != 206 else 0

            async def pieces() -> AsyncIterator[bytes]:
                nonlocal skip
                waiting = bytearray()
                try:
                    # Whatever Content-Encoding says: the digest is of the raw bytes.
                    async for piece in in_turns(response.aiter_raw()):
                        skipped = min(skip, len(piece))
                        skip -= skipped
                        waiting += piece[skipped:]
                        if len(waiting) >= PIECE:
                            yield bytes(waiting)
                            waiting.clear()
                except httpx.HTTPError as error:
                    # What has come counts: it need not come again.
                    if waiting:
                        yield bytes(waiting)
                    raise ComeBackLater(f"reading {digest} from {self.host}: {words_of(error)}") from error
                if waiting:
                    yield bytes(waiting)

            yield pieces()

    # -- push -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _push_scope(repository: str, source: str = "") -> str:
        extra = f" repository:{source}:pull" if source else ""
        return f"repository:{repository}:pull,push{extra}"

    def _check_push(self, response: httpx.Response, what: str) -> None:
        if response.status_code in (401, 403):
            raise Unauthorized("denied: requested access to the resource is denied")
        if response.status_code == 429 or response.status_code >= 500:
            raise ComeBackLater(
                f"received unexpected HTTP status {response.status_code} from {self.host} for {what}",
                retry_after(response),
            )
        if response.status_code >= 400:
            raise RemoteFailed(f"received unexpected HTTP status {response.status_code} from {self.host} for {what}")

    async def has_blob(self, repository: str, digest: str) -> bool:
        path = f"/v2/{repository}/blobs/{digest}"
        async with self._session.guarded("HEAD", path, self._push_scope(repository)) as response:
            if response.status_code == 404:
                return False
            self._check_push(response, digest)
            return True

    async def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Link a blob of another repository into this one, without an upload. False when the registry does not do that."""
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source}"
        async with self._session.guarded(
            "POST", path, self._push_scope(repository, source), {"Content-Length": "0"}
        ) as response:
            if response.status_code == 201:
                return True
            place = response.headers.get("location")
        if response.status_code == 202 and place:
            # The registry has started an upload instead: cancel it.
            try:
                async with self._session.guarded("DELETE", self._session.absolute(place), self._push_scope(repository)):
                    pass
            except VchError:
                pass
        return False

    async def upload(self, repository: str, file: IO[bytes], size: int, digest: str, sent: Sent) -> None:
        """Upload a blob in pieces and call `sent` with the bytes sent so far. An upload that breaks off resumes where the registry is.

        ComeBackLater after several failures without progress.
        """
        scope = self._push_scope(repository)
        async with self._session.guarded("POST", f"/v2/{repository}/blobs/uploads/", scope, _EMPTY) as response:
            self._check_push(response, digest)
            place = self._session.absolute(response.headers.get("location", ""))
        position = furthest = failed = 0
        while position < size:
            try:
                place = await self._send_piece(place, scope, file, position, min(_CHUNK, size - position), sent)
                position += min(_CHUNK, size - position)
                # A registry may forget what it has taken, again and again.
                if position > furthest:
                    furthest, failed = position, 0
            except ComeBackLater:
                failed += 1
                if failed > _UPLOAD_FAILURES:
                    raise
                await trio.sleep(_UPLOAD_PAUSE * 2**failed)
                place, position = await self._resume(place, scope)
        mark = "&" if "?" in place else "?"
        async with self._session.guarded("PUT", f"{place}{mark}digest={digest}", scope, _EMPTY) as response:
            self._check_push(response, digest)

    async def _send_piece(self, place: str, scope: str, file: IO[bytes], position: int, length: int, sent: Sent) -> str:
        """Send a piece of an upload; return the URL for the next piece."""

        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{position}-{position + length - 1}",
        }
        async with self._session.guarded(
            "PATCH", place, scope, headers, lambda: Piece(file, position, length, sent)
        ) as response:
            self._check_push(response, place)
            return self._session.absolute(response.headers.get("location") or place)

    async def _resume(self, place: str, scope: str) -> tuple[str, int]:
        """Return the URL where an upload continues, and the byte from which on."""
        async with self._session.guarded("GET", place, scope) as response:
            self._check_push(response, place)
            match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", response.headers.get("range", ""))
            position = int(match[1]) + 1 if match and match[1] != "0" else 0
            return self._session.absolute(response.headers.get("location") or place), position

    async def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> None:
        path = f"/v2/{repository}/manifests/{reference}"
        scope = self._push_scope(repository)
        async with self._session.guarded("PUT", path, scope, {"Content-Type": media_type}, content) as response:
            self._check_push(response, f"{repository}:{reference}")

    # -- search ---------------------------------------------------------------------------------------------------

    async def search(self, term: str, limit: int) -> list[SearchResult]:
        """Search an index of images (Docker's v1 search)."""
        base = "https://index.docker.io" if self.host == "docker.io" else ""
        query = httpx.QueryParams({"q": term, "n": str(limit)})
        try:
            response = await self._session.get(f"{base}/v1/search?{query}", "")
        except httpx.HTTPError as error:
            raise RemoteFailed(f"search at {self.host}: {error!r}") from error
        if response.status_code >= 400:
            raise RemoteFailed(f"Unexpected status code {response.status_code} of the search at {self.host}")
        try:
            return decode_untrusted(response.content, _SearchAnswer).results
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"{self.host} sent a malformed answer to a search") from error
