"""What describes an image outside of its layers: OCI index, manifest and descriptor (image-spec), Docker's schema 2 and manifest list,
and the manifest.json of `docker save`.

Registries and archives send these documents, so everything in them is checked: a value of the wrong kind is a ProtocolError, an unknown
field is ignored.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from appliance.errors import ProtocolError
from appliance.streams.json_values import MAX_VALUES, has_too_many_values

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_PLAIN_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

_INDEX_TYPES = frozenset((OCI_INDEX, DOCKER_INDEX))
_MANIFEST_TYPES = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class DescribedPlatform(msgspec.Struct):
    """The platform of a descriptor or of an image's config."""

    architecture: str | None = ""
    os: str | None = ""
    os_version: str | UnsetType | None = msgspec.field(default=UNSET, name="os.version")
    os_features: list[str] | UnsetType | None = msgspec.field(default=UNSET, name="os.features")
    variant: str | UnsetType | None = UNSET


class Annotations(msgspec.Struct):
    """The annotations that name an image in an archive."""

    image_name: str | UnsetType | None = msgspec.field(default=UNSET, name="io.containerd.image.name")
    ref_name: str | UnsetType | None = msgspec.field(default=UNSET, name="org.opencontainers.image.ref.name")


class Descriptor(msgspec.Struct, rename="camel", kw_only=True):
    """Names a blob. The order of fields is that of moby's schema 2: the digest of a pushed manifest depends on it."""

    media_type: str | None = ""
    size: _Size = 0
    digest: str
    annotations: Annotations | UnsetType | None = UNSET
    platform: DescribedPlatform | UnsetType | None = UNSET


class ImageManifest(msgspec.Struct, rename="camel", kw_only=True):
    """One image for one platform: its config and its layers, lowest first."""

    schema_version: int = 2
    media_type: str | None = ""
    config: Descriptor
    layers: list[Descriptor]


class _SentManifest(msgspec.Struct, rename="camel", kw_only=True):
    """A manifest as Go writes it: null for no layers."""

    schema_version: int = 2
    media_type: str | None = ""
    config: Descriptor
    layers: list[Descriptor] | None

    def received(self) -> ImageManifest:
        return ImageManifest(
            schema_version=self.schema_version, media_type=self.media_type, config=self.config, layers=self.layers or []
        )


class ImageIndex(msgspec.Struct, rename="camel", kw_only=True):
    """Images for several platforms, or all images of an archive."""

    schema_version: int = 2
    media_type: str | None = ""
    manifests: list[Descriptor]


class ArchivedImage(msgspec.Struct, rename="pascal", kw_only=True):
    """An image in the manifest.json of `docker save`: member names of its config and layers, and its familiar names."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None


class Distribution(msgspec.Struct, rename="pascal"):
    """What a registry has under a name (API: DistributionInspect)."""

    descriptor: Descriptor
    platforms: list[DescribedPlatform]


class _Kind(msgspec.Struct, rename="camel"):
    """Enough of a document to tell which of the two it is."""

    schema_version: int | None = None
    media_type: str | None = ""
    manifests: msgspec.Raw | UnsetType = UNSET
    config: msgspec.Raw | UnsetType = UNSET
    layers: msgspec.Raw | UnsetType = UNSET


_MAX_DESCRIPTORS = 10_000
_EMPTY = (b"null", b"[]", b"{}")


def _is_given(member: msgspec.Raw | UnsetType) -> bool:
    return member is not UNSET and bytes(member).strip() not in _EMPTY


def _bounded(document: ImageManifest | ImageIndex, complaint: str) -> ImageManifest | ImageIndex:
    """Refuse more descriptors than the callers should loop over: a document of 4 MiB may have 300 000."""
    found = document.manifests if isinstance(document, ImageIndex) else document.layers
    if len(found) > _MAX_DESCRIPTORS:
        raise ProtocolError(f"{complaint}: more than {_MAX_DESCRIPTORS} descriptors")
    return document


def parse_manifest_untrusted(content: bytes, complaint: str, media_type: str = "") -> ImageManifest | ImageIndex:
    """Decode a manifest or an index: the same name may stand for either. `complaint` begins the text of a ProtocolError.

    `media_type` is what the sender calls the document, "" if that is unknown. A document that is ambiguous between the two, or is not
    what it is called, is refused: another client could take it for another image under the same digest (CVE-2021-41190; the checks are
    those of containerd's validateMediaType, and of distribution's manifests).
    """
    if has_too_many_values(content):
        raise ProtocolError(f"{complaint}: more than {MAX_VALUES} values")
    try:
        kind = msgspec.json.decode(content, type=_Kind)
        if kind.schema_version == 1:
            raise ProtocolError(f"{complaint}: manifests of schema 1 are not supported: schema 2 replaced them in 2016")
        called = {name for name in (media_type, kind.media_type) if name}
        if _is_given(kind.manifests) and (_is_given(kind.config) or _is_given(kind.layers)):
            raise ProtocolError(f"{complaint}: it is both a manifest and an index: it has layers and manifests")
        if kind.manifests is not UNSET and (_is_given(kind.manifests) or kind.config is UNSET):
            if called & _MANIFEST_TYPES:
                raise ProtocolError(f"{complaint}: media-type: expected manifest but found index")
            return _bounded(msgspec.json.decode(content, type=ImageIndex), complaint)
        if called & _INDEX_TYPES:
            raise ProtocolError(f"{complaint}: media-type: expected index but found manifest")
        return _bounded(msgspec.json.decode(content, type=_SentManifest).received(), complaint)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"{complaint}: {error}") from error
