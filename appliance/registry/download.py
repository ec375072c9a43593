"""Downloads a file from any web server, for `docker import URL`."""

from collections.abc import AsyncGenerator

import httpx

from appliance.errors import RemoteFailed
from appliance.registry.destinations import Destinations, send_following
from appliance.registry.proxies import Proxies, ProxyTransport
from appliance.registry.wire import IDENTITY, in_turns, words_of

_SECONDS = 30


async def download(url: str, proxies: Proxies) -> AsyncGenerator[bytes, None]:
    """The bytes of the file, as the server has it: never decoded, since servers also send a .tar.gz as an encoded .tar.

    RemoteFailed when the server does not answer, or answers with an error. The server may not redirect to this host.
    """
    try:
        async with httpx.AsyncClient(
            timeout=_SECONDS,
            trust_env=False,
            headers=IDENTITY,
            transport=ProxyTransport(proxies, True, httpx.Limits()),
        ) as client:
            request = client.build_request("GET", url)
            response = await send_following(client, request, Destinations([request.url.host]))
            try:
                if response.status_code >= 400:
                    raise RemoteFailed(f"Got HTTP status code >= 400: {response.status_code}")
                async for piece in in_turns(response.aiter_raw(1 << 18)):
                    yield piece
            finally:
                await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RemoteFailed(f"cannot read {url}: {words_of(error)}") from error
