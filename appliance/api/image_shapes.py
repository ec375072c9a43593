"""Images as Docker's JSON, by API version."""

import calendar
import time
from typing import Any

import msgspec

from appliance.api.router import Version
from appliance.api.shapes import config_shape
from appliance.container.config import ContainerConfig
from appliance.container.go_json import decode_stored
from appliance.container.times import ZERO, rfc3339
from appliance.image.config import ImageConfig
from appliance.image.reference import familiar_names
from appliance.image.store import ImageRecord

_NOT_OF_IMAGES = frozenset(
    (
        "Hostname",
        "Domainname",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "Image",
        "NetworkDisabled",
        "MacAddress",
        "StopTimeout",
    )
)


class _Source(msgspec.Struct):
    """The part of an image's config that says from which container it was committed. Its content is not verified."""

    container: msgspec.Raw = msgspec.Raw(b"null")
    container_config: msgspec.Raw = msgspec.Raw(b"null")


def list_image(
    record: ImageRecord, config: ImageConfig, size: int, containers: int, version: Version
) -> dict[str, Any]:
    tags, digests = familiar_names(record.references), familiar_names(record.digests)
    if version < (1, 43) and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    shape = {
        "Id": record.id,
        "ParentId": record.parent,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": created_of(config),
        "Size": size,
        "SharedSize": -1,
        "Labels": config.config.labels,
        "Containers": containers if version >= (1, 51) else -1,
    }
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape


def created_of(config: ImageConfig) -> int:
    """Unix seconds."""
    return seconds_of(config.created)


def seconds_of(when: str | None) -> int:
    """Unix seconds of a time in an image's config; 0 for none."""
    text = (when or ZERO)[:19]
    try:
        return max(0, calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))) if not text.startswith("0001") else 0
    except ValueError:
        return 0


def _image_config(config: ContainerConfig, version: Version) -> dict[str, Any]:
    """Config of an image. Since API 1.50 without the fields that only containers have."""
    shape = config_shape(config) | {"Labels": config.labels}
    return shape if version < (1, 50) else {name: value for name, value in shape.items() if name not in _NOT_OF_IMAGES}


def inspect_image(record: ImageRecord, config: ImageConfig, size: int, version: Version) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "Id": record.id,
        "RepoTags": familiar_names(record.references),
        "RepoDigests": familiar_names(record.digests),
        "Parent": record.parent,
        "Comment": config.comment or "",
        "Created": config.created or ZERO,
        "DockerVersion": config.docker_version or "",
        "Author": config.author or "",
        "Config": _image_config(config.config, version),
        "Architecture": config.platform.architecture,
        "Os": config.platform.system,
        "Size": size,
        "GraphDriver": {"Name": "erofs", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": config.diff_ids},
        "Metadata": {"LastTagTime": rfc3339(int(record.tagged * 1e9))},
    }
    if version < (1, 45):
        source = msgspec.json.decode(record.config, type=_Source)
        shape["Container"] = msgspec.json.decode(source.container) or ""
        committed = decode_stored(source.container_config, ContainerConfig)
        shape["ContainerConfig"] = config_shape(committed) | {"Labels": committed.labels}
    if config.variant:
        shape["Variant"] = config.variant
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape
