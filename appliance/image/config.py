"""An image's config (OCI image-spec config.md, with Docker's additions). Its source is untrusted, so each field that is used is checked."""

import re

import msgspec

from appliance.container.config import ContainerConfig
from appliance.container.go_json import decode_stored, fold
from appliance.errors import ProtocolError
from appliance.image.platform import Platform, platform_of
from appliance.streams.json_values import MAX_VALUES, has_too_many_values

_MAX_LAYERS = 250


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
    # The defaults of the containers that are made from the image.
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    history: list[History] | None = None
    rootfs: RootFs | None = None

    @property
    def diff_ids(self) -> list[str]:
        """The digests of the layers' tars, lowest layer first."""
        return (self.rootfs.diff_ids if self.rootfs is not None else None) or []

    @property
    def platform(self) -> Platform:
        return platform_of(self.os, self.architecture)


class CommittedConfig(ImageConfig, omit_defaults=True, kw_only=True):
    """The config of an image that `docker commit` makes: Docker also writes which container it was made from."""

    container: str
    container_config: ContainerConfig


def parse_config(data: bytes) -> ImageConfig:
    """Decode a config that was checked when the image came."""
    return decode_stored(data, ImageConfig)


def parse_config_untrusted(data: bytes) -> ImageConfig:
    """Decode and check a config that a registry, an archive or a client sent. ProtocolError if it is not valid."""
    # `docker history` shows each step of a config, and lists show each label.
    if has_too_many_values(data):
        raise ProtocolError(f"invalid image config: more than {MAX_VALUES} values")
    try:
        given = msgspec.json.decode(data)
        if isinstance(given, dict):
            # As encoding/json of Go: dockerd would run the image as well.
            fold(given, ImageConfig)
        config = msgspec.convert(given, ImageConfig)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"invalid image config: {error}") from error
    ids = config.diff_ids
    if not all(re.fullmatch(r"sha256:[a-f0-9]{64}", item) for item in ids):
        raise ProtocolError("invalid image config: diff_ids are not digests")
    if len(ids) > _MAX_LAYERS:
        raise ProtocolError(f"max depth exceeded: {len(ids)} layers")
    return config
