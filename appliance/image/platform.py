"""The platform that an image is made for: an operating system and an architecture (containerd's platforms)."""

from dataclasses import dataclass

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
    """An operating system and an architecture, in Go's names. `given`: the client asked for this platform."""

    system: str = "linux"
    architecture: str = "amd64"
    given: bool = False

    def __str__(self) -> str:
        return f"{self.system}/{self.architecture}"

    def fits(self, other: "Platform") -> bool:
        """Whether both name the same system and architecture."""
        return (self.system, self.architecture) == (other.system, other.architecture)


def platform_of(system: str | None, architecture: str | None) -> Platform:
    """The platform that a config or a descriptor names. A part that it leaves out is ours."""
    return Platform(system or OURS.system, architecture or OURS.architecture)


OURS = Platform()


def parse_platform(text: str) -> Platform:
    """Parse linux/amd64[/variant]; "" is the platform of our machines. InvalidParameter with containerd's text."""
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
