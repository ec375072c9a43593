"""Answers to a registry's challenge: RFC 9110, and Docker's token specification (distribution's docs/spec/auth)."""

import re
from dataclasses import dataclass

import httpx
import msgspec

from appliance.errors import ProtocolError, RemoteFailed, Unauthorized, VchError
from appliance.registry.destinations import GUARDED, Destinations, send_following
from appliance.registry.wire import (
    ComeBackLater,
    check_encoding,
    decode_untrusted,
    in_turns,
    read_at_most,
    retry_after,
    words_of,
)

_MAX_ANSWER = 1 << 20
_MAX_SCOPES = 100


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client has for a registry: a name with a password, or an identity token of an earlier login."""

    username: str = ""
    password: str = ""
    identity_token: str = ""


class NoBasicCredentials(VchError):
    """The registry wants a name and a password, and the client has sent none. (distribution's registry/client/auth/session.go)"""

    def __init__(self) -> None:
        super().__init__("no basic auth credentials")


class _Answer(msgspec.Struct):
    """A token, under Docker's name or that of OAuth 2."""

    token: str | None = None
    access_token: str | None = None


async def authorization(
    client: httpx.AsyncClient,
    host: str,
    challenge: str,
    scopes: str,
    known: Credentials,
    destinations: Destinations,
) -> str | None:
    """The Authorization header that answers a WWW-Authenticate of `host`; None for a scheme other than Basic and Bearer.

    `scopes` are separated by spaces; the scopes of the challenge are added. Unauthorized when the token service rejects the credentials.
    `destinations` bounds where the token service may be.
    """
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        if not known.username or not known.password:
            raise NoBasicCredentials
        return _basic(known)
    if kind.lower() != "bearer":
        return None
    # Names start where a word does: otherwise a long word takes quadratic time.
    fields = dict(re.findall(r'(?<!\w)(\w+)="([^"]*)"', rest))
    realm = fields.get("realm", "")
    if not realm.startswith(("https://", "http://")):
        raise ProtocolError(f"registry {host} sent an authentication realm that is not a URL")
    wanted = list(dict.fromkeys([*scopes.split(), *fields.get("scope", "").split()]))
    if len(wanted) > _MAX_SCOPES:
        raise ProtocolError(f"registry {host} asks for more than {_MAX_SCOPES} scopes")
    try:
        request = _request(client, realm, fields.get("service", ""), wanted, known)
        request.extensions = {**request.extensions, GUARDED: destinations}
        response = await send_following(client, request, destinations)
        try:
            check_encoding(response)
            body = await read_at_most(in_turns(response.aiter_bytes()), _MAX_ANSWER)
        finally:
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RemoteFailed(f"cannot get a token for {host}: {words_of(error)}") from error
    if response.status_code in (401, 403):
        raise Unauthorized(f"unauthorized: incorrect username or password for {host}")
    if response.status_code == 429 or response.status_code >= 500:
        raise ComeBackLater(f"the token service of {host} answers {response.status_code}", retry_after(response))
    return f"Bearer {_token(body or b'', host)}"


def _basic(known: Credentials) -> str:
    # httpx has no public function that makes this header.
    return httpx.BasicAuth(known.username, known.password)._auth_header


def _request(
    client: httpx.AsyncClient, realm: str, service: str, scopes: list[str], known: Credentials
) -> httpx.Request:
    if known.identity_token:
        form = {
            "service": service,
            "scope": " ".join(scopes),
            "grant_type": "refresh_token",
            "refresh_token": known.identity_token,
            "client_id": "vch",
        }
        return client.build_request("POST", realm, data=form)
    parameters = httpx.QueryParams([("service", service)] if service else [])
    for scope in scopes:
        parameters = parameters.add("scope", scope)
    headers = {}
    if known.username:
        parameters = parameters.add("account", known.username)
        headers["Authorization"] = _basic(known)
    # The realm may have a query of its own, which must stay.
    return client.build_request("GET", httpx.URL(realm).copy_merge_params(parameters), headers=headers)


def _token(body: bytes, host: str) -> str:
    try:
        answer = decode_untrusted(body, _Answer)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"the token service of {host} sent no token") from error
    token = answer.token or answer.access_token or ""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ProtocolError(f"the token service of {host} sent an invalid token")
    return token
