"""Decodes the query and the headers of `POST /build` (moby daemon/server/router/build newImageBuildOptions)."""

import base64
from typing import Any

import msgspec

from appliance.container.build_request import BuildRequest, check_build_request
from appliance.container.fields import Int64, Kind, fields_of
from appliance.container.go_json import convert, fold
from appliance.errors import InvalidParameter
from appliance.http import Request
from appliance.image.platform import parse_platform
from appliance.image.reference import Reference, parse_reference
from appliance.registry import Credentials

FIELDS = fields_of(BuildRequest)

_INTRODUCTION = """# What becomes of the parameters of a build

The query parameters of `POST /build`, API 1.22 to 1.51. *Honoured*: the parameter does what Docker's documentation says. *Refused*: a
value that would have an effect is answered with 400 and the parameter's name. *Warned*: the answer's stream names the parameter.
An unknown parameter is warned of, too. `document` in `builds/parameters.py` writes this file from `container/build_request.py`.

| parameter | decision | how, or why not |
|---|---|---|"""

_JSON = {
    "buildargs": "error reading build args",
    "labels": "error reading labels",
    "cachefrom": "error reading cache-from",
    "ulimits": "error reading ulimit settings",
    "outputs": "invalid outputs specified",
}
"""Parameters whose text is JSON, and moby's complaint about malformed JSON."""
_SINCE = {"platform": (1, 32), "outputs": (1, 40)}
_REPEATED = ("t", "extrahosts", "securityopt")
_MAX_NAMES = 64
_MAX_REGISTRIES = 128
_MAX_TEXT = 16 << 10
_INDEX_SERVER = "https://index.docker.io/v1/"


def document() -> str:
    """The text of BUILD_FIELDS.md."""
    rows = [f"| `{field.name}` | {field.decision.value} | {field.note} |" for field in FIELDS.values()]
    headers = (
        "| header `X-Registry-Config` | honoured | credentials of registries, for the base images of this build |",
        "| header `Content-Type` | honoured | any value: the context's first bytes tell its compression, as in Docker |",
    )
    return "\n".join([_INTRODUCTION, *rows, *headers, ""])


def build_request(request: Request) -> tuple[BuildRequest, list[str]]:
    """The parameters of a request, and warnings. InvalidParameter with moby's text."""
    given: dict[str, Any] = {}
    for name, field in FIELDS.items():
        if name not in request.query or request.version < _SINCE.get(name, (0, 0)):
            continue
        text = request.text(name)
        if name in _REPEATED:
            given[name] = [value for value in request.query[name] if value]
        elif name in _JSON:
            given[name] = _decode(text, name)
        elif field.kind is Kind.FLAG:
            given[name] = request.flag(name)
        elif field.kind is Kind.NUMBER:
            given[name] = _number(name, text)
        else:
            given[name] = text
    # Go's form has no value for these; an empty text means the same.
    if not given.get("version"):
        given.pop("version", None)
    fold(given, BuildRequest)
    decoded = convert(given, BuildRequest)
    warnings = [f"{name} is not known here and was ignored" for name in request.query if name not in FIELDS]
    warnings += check_build_request(decoded)
    if decoded.platform:
        parse_platform(decoded.platform)
    if len(decoded.t) > _MAX_NAMES:
        raise InvalidParameter(f"too many names for an image: at most {_MAX_NAMES}")
    return decoded, warnings


def _decode(text: str, name: str) -> Any:
    """The JSON of a parameter; None stands for no value. InvalidParameter."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"{_JSON[name]}: {error}") from error


def _number(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        return msgspec.convert(text.removeprefix("+"), Int64, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f'invalid {name} value: strconv.ParseInt: parsing "{text}": invalid syntax') from error


def image_names(request: BuildRequest) -> list[Reference]:
    """The names that the image gets, each once (moby sanitizeRepoAndTags). InvalidParameter."""
    names: dict[Reference, None] = {}
    for text in request.t:
        reference = parse_reference(text)
        if reference.digest:
            raise InvalidParameter("build tag cannot contain a digest")
        names[reference.with_default_tag()] = None
    return list(names)


def registry_credentials(request: Request) -> dict[str, Credentials]:
    """The header X-Registry-Config: credentials by the registry's host. As in moby, a malformed header counts as none.

    InvalidParameter for too many registries.
    """
    header = request.headers.get("x-registry-config", "")
    try:
        given = msgspec.json.decode(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, msgspec.DecodeError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    if len(given) > _MAX_REGISTRIES:
        raise InvalidParameter(f"X-Registry-Config has more than {_MAX_REGISTRIES} registries")
    found = {}
    for address, auth in given.items():
        if isinstance(auth, dict):
            found[registry_host(address)] = Credentials(
                _text(auth.get("username")), _text(auth.get("password")), _text(auth.get("identitytoken"))
            )
    return found


def registry_host(address: str) -> str:
    """The host that BuildKit asks credentials for, of the address under which the client keeps them."""
    if address in (_INDEX_SERVER, "index.docker.io", "docker.io"):
        return "registry-1.docker.io"
    return address.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _text(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""
