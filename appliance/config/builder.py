"""The settings of the builder: the container of vchd in which BuildKit runs. Each field is a row of the table of settings."""

import sys
from dataclasses import dataclass
from pathlib import Path

from appliance.config import rows
from appliance.config.parsers import check_builder_memory, check_vm_cpus, parse_builder_disk, parse_seconds
from appliance.config.rows import Option, Property, setting

_PACKAGED_ARCHIVE = Path("/usr/share/vch/builder.tar")


def default_builder_archive() -> Path:
    """The archive beside the interpreter, as the appliance has it, else that of a package."""
    beside = Path(sys.prefix) / "share/vch/builder.tar"
    return beside if beside.exists() else _PACKAGED_ARCHIVE


@dataclass(frozen=True, slots=True)
class BuilderConfig:
    """What the builder is made of, and how long it stays without builds."""

    builder_image: str = setting(
        "docker.io/moby/buildkit:v0.34.2",
        rows.BUILDER,
        "Image of the builder, the machine that builds images: it has buildkitd, a shell and an OCI runtime",
        metavar="IMAGE",
        property=Property(label="Builder image"),
        option=Option(names=("--builder-image",)),
    )
    builder_memory: int | None = setting(
        None,
        rows.BUILDER,
        "Memory limit of the builder in MiB (default: all memory of a VM of the usual size)",
        metavar="MIB",
        check=check_builder_memory,
        property=Property(
            label="Builder memory",
            help="Memory limit of the builder in MiB; empty for all memory of a VM of the usual size",
        ),
        option=Option(names=("--builder-memory",)),
    )
    builder_cpus: int | None = setting(
        None,
        rows.BUILDER,
        "CPUs of the builder (default: all CPUs of a VM of the usual size)",
        metavar="COUNT",
        check=check_vm_cpus,
        property=Property(
            label="Builder CPUs", help="CPUs of the builder; empty for all CPUs of a VM of the usual size"
        ),
        option=Option(names=("--builder-cpus",)),
    )
    builder_disk: int = setting(
        20 << 30,
        rows.BUILDER,
        "Size of the builder's disk, a volume with the build cache that stays while the builder is stopped (default: 20g)",
        metavar="SIZE",
        parse=parse_builder_disk,
        property=Property(label="Builder disk", help="Size of the disk with the build cache", default="20g"),
        option=Option(names=("--builder-disk",)),
    )
    builder_idle: int = setting(
        600,
        rows.BUILDER,
        "How long the builder runs after its last build, such as 90s, 10m or 1h; 0 ends it at once (default: 10m)",
        metavar="DURATION",
        parse=parse_seconds,
        property=Property(
            label="Builder idle time",
            help="How long the builder runs after its last build, such as 90s, 10m or 1h; 0 ends it at once",
            default="10m",
        ),
        option=Option(names=("--builder-idle",)),
    )
    builder_archive: Path = setting(
        _PACKAGED_ARCHIVE,
        rows.BUILDER,
        "Archive with the image of the builder, as make builder-image makes it; loaded before a pull when the image is not here",
        metavar="FILE",
        factory=default_builder_archive,
    )
