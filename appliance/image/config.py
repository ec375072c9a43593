"""An image's config (OCI image-spec config.md, with Docker's additions). Strangers write it, so all that is used of it is checked."""

import re
from typing import Annotated, Any

import msgspec

from appliance.errors import ProtocolError
from appliance.image.platform import Platform, platform_of

_MAX_LAYERS = 250

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Words = list[str] | str | None
"""Docker reads a string as a list of one (moby's strslice)."""
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


class History(msgspec.Struct, omit_defaults=True):
    """How a layer was made; `empty_layer`: the step changed no file and has no layer."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class RootFs(msgspec.Struct):
    """The digests of the layers' tars, lowest layer first."""

    type: str | None = None
    diff_ids: list[str] | None = None


class _Checked(msgspec.Struct):
    """The part of the config that is kept as a dictionary."""

    config: _Config | None = None


class ImageConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An image's config. Fields that vch does not use are ignored; the bytes that came are kept beside it (ImageRecord.config)."""

    architecture: str | None = None
    os: str | None = None
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    comment: str | None = None
    docker_version: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    # Docker's record of the container that an image was committed from; API 1.44 and older show it.
    container: msgspec.Raw = msgspec.Raw(b"null")
    container_config: msgspec.Raw = msgspec.Raw(b"null")
    container_defaults: dict[str, Any] | None = msgspec.field(default=None, name="config")
    history: list[History] | None = None
    rootfs: RootFs | None = None

    @property
    def diff_ids(self) -> list[str]:
        """The digests of the layers' tars, lowest layer first."""
        return (self.rootfs.diff_ids if self.rootfs is not None else None) or []

    @property
    def config(self) -> dict[str, Any]:
        """The defaults that a container of this image gets."""
        return self.container_defaults or {}

    @property
    def platform(self) -> Platform:
        return platform_of(self.os, self.architecture)


def parse_config(data: bytes) -> ImageConfig:
    """Decode a config that was checked when the image came."""
    config = msgspec.json.decode(data, type=ImageConfig)
    for name in _WORDS:
        if isinstance(text := config.config.get(name), str):
            config.config[name] = [text]
    return config


def parse_config_untrusted(data: bytes) -> ImageConfig:
    """Decode and check a config that a registry, an archive or a client sent. ProtocolError if it is not valid."""
    try:
        msgspec.json.decode(data, type=_Checked)
        config = parse_config(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"invalid image config: {error}") from error
    ids = config.diff_ids
    if not all(re.fullmatch(r"sha256:[a-f0-9]{64}", item) for item in ids):
        raise ProtocolError("invalid image config: diff_ids are not digests")
    if len(ids) > _MAX_LAYERS:
        raise ProtocolError(f"max depth exceeded: {len(ids)} layers")
    return config
