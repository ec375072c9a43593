"""What an image is made for: an operating system and an architecture (containerd's platforms)."""

from dataclasses import dataclass
from typing import Any

from appliance.errors import InvalidParameter

_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd"))
_ARCHITECTURES = frozenset(
    (
        "amd64",
        "arm64",
        "arm",
        "386",
        "ppc64le",
        "s390x",
        "riscv64",
        "mips64le",
        "mips64",
        "loong64",
        "wasm",
    )
)
_OTHER_NAMES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image is made for; `given` says that somebody asked for it."""

    system: str = "linux"
    architecture: str = "amd64"
    given: bool = False

    def __str__(self) -> str:
        return f"{self.system}/{self.architecture}"

    def fits(self, described: dict[str, Any]) -> bool:
        """Whether what an image's config says is this."""
        return platform_of(described) == Platform(self.system, self.architecture)


def platform_of(described: dict[str, Any]) -> Platform:
    """Of an image's config (image-spec config.md), or a descriptor's; what is not said is ours."""
    return Platform(described.get("os") or OURS.system, described.get("architecture") or OURS.architecture)


OURS = Platform()


def parse_platform(text: str) -> Platform:
    """linux/amd64[/variant]. InvalidParameter in containerd's words."""
    if not text:
        return OURS
    system, _, rest = text.lower().partition("/")
    architecture = rest.partition("/")[0]
    if not architecture:
        system, architecture = (system, "amd64") if system in _SYSTEMS else ("linux", system)
    architecture = _OTHER_NAMES.get(architecture, architecture)
    if system not in _SYSTEMS or architecture not in _ARCHITECTURES:
        raise InvalidParameter(
            f'invalid platform: "{text}": unknown operating system or architecture: invalid argument'
        )
    return Platform(system, architecture, given=True)
