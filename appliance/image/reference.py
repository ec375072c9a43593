"""Image names in Docker's grammar (distribution/reference): familiar names, docker.io, tags and digests."""

import re
from dataclasses import dataclass

from appliance.errors import InvalidParameter

DOCKER_HUB = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name of an image. `domain` is the registry's host; `tag` and `digest` are "" when absent."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def familiar_name(self) -> str:
        """The name that users see: without docker.io and library/."""
        if self.domain != DOCKER_HUB:
            return f"{self.domain}/{self.path}"
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    @property
    def name(self) -> str:
        """The full name, without tag and digest."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.familiar_name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> "Reference":
        """The same reference, with the tag `latest` if it has neither tag nor digest."""
        return self if self.tag or self.digest else Reference(self.domain, self.path, "latest")


def parse_reference(text: str) -> Reference:
    """Parse a familiar or full name. InvalidParameter with Docker's text."""
    invalid = InvalidParameter("invalid reference format")
    rest, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise invalid
    if re.fullmatch(r"[a-f0-9]{64}", text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    first, slash, remainder = rest.partition("/")
    if slash and (any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first):
        domain, rest = first, remainder
    else:
        domain = DOCKER_HUB
    path, _, tag = rest.partition(":")
    if domain in ("index.docker.io", "registry-1.docker.io"):
        domain = DOCKER_HUB
    if domain == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if path.lower() != path:
        raise InvalidParameter("invalid reference format: repository name must be lowercase")
    if (":" in rest and not _TAG.fullmatch(tag)) or not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain):
        raise invalid
    if len(domain) + len(path) > 254:
        raise InvalidParameter("repository name must not be more than 255 characters")
    return Reference(domain, path, tag, digest)


def tag_reference(repository: str, tag: str = "") -> Reference:
    """The name that a new tag gives to an image; `tag` replaces the tag of `repository`. InvalidParameter with Docker's text."""
    reference = parse_reference(repository)
    if reference.digest:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    if tag and not _TAG.fullmatch(tag):
        raise InvalidParameter("invalid tag format")
    if tag:
        reference = Reference(reference.domain, reference.path, tag)
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_default_tag()


def familiar_names(names: list[str]) -> list[str]:
    """Full names in the form that users see, without docker.io and library/."""
    return [str(parse_reference(name)) for name in names]
