"""An image's config (OCI image-spec config.md, with Docker's additions), and what it has to be like. It comes from anybody."""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from appliance.errors import ProtocolError

_MAX_LAYERS = 250

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Words = list[str] | str | None
"""Docker takes a text for a list of one (moby's strslice)."""
_WORDS = ("Cmd", "Entrypoint", "Shell")


class _Health(msgspec.Struct, rename="pascal"):
    test: list[str] | None = None
    interval: Int64 | None = None
    timeout: Int64 | None = None
    start_period: Int64 | None = None
    start_interval: Int64 | None = None
    retries: Int64 | None = None


class _Config(msgspec.Struct, rename="pascal"):
    hostname: str | None = None
    domainname: str | None = None
    user: str | None = None
    exposed_ports: dict[str, dict[str, Any] | None] | None = None
    env: list[str] | None = None
    entrypoint: Words = None
    cmd: Words = None
    shell: Words = None
    on_build: list[str] | None = None
    volumes: dict[str, dict[str, Any] | None] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: Int64 | None = None
    healthcheck: _Health | None = None


class _History(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _RootFs(msgspec.Struct):
    type: str | None = None
    diff_ids: list[str] | None = None


class _Image(msgspec.Struct):
    architecture: str | None = None
    os: str | None = None
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    comment: str | None = None
    docker_version: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    config: _Config | None = None
    rootfs: _RootFs | None = None
    history: list[_History] | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """As far as it is used here. `raw` is of the shape above, and may have more."""

    raw: dict[str, Any]

    @property
    def diff_ids(self) -> list[str]:
        ids: list[str] = (self.raw.get("rootfs") or {}).get("diff_ids") or []
        return ids

    @property
    def config(self) -> dict[str, Any]:
        inner: dict[str, Any] = self.raw.get("config") or {}
        return inner


def parse_config(data: bytes) -> ImageConfig:
    """One that was taken in before."""
    config = ImageConfig(json.loads(data))
    for name in _WORDS:
        if isinstance(text := config.config.get(name), str):
            config.config[name] = [text]
    return config


def parse_config_untrusted(data: bytes) -> ImageConfig:
    """ProtocolError for what is no image config."""
    try:
        msgspec.json.decode(data, type=_Image)
        config = parse_config(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"invalid image config: {error}") from error
    ids = config.diff_ids
    if not all(re.fullmatch(r"sha256:[a-f0-9]{64}", item) for item in ids):
        raise ProtocolError("invalid image config: diff_ids are no digests")
    if len(ids) > _MAX_LAYERS:
        raise ProtocolError(f"max depth exceeded: {len(ids)} layers")
    return config
