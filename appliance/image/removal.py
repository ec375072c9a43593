"""What `docker rmi` takes away: names, and the image with its last name (moby daemon/images/image_delete.go). Pure."""

from dataclasses import dataclass
from typing import Protocol

from appliance.errors import Conflict
from appliance.image.reference import parse_reference


class ImageUsers(Protocol):
    """The short id of a container of an image that runs, or of one that does not run."""

    def __call__(self, image_id: str, *, running: bool) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ImageUse:
    """What holds an image: the short ids of a running and of another container, "" for none, and images that were committed from it."""

    running: str = ""
    stopped: str = ""
    has_children: bool = False

    @property
    def container(self) -> str:
        return self.running or self.stopped


@dataclass(frozen=True, slots=True)
class Removal:
    """The full names to remove, and whether the image is to be deleted, too."""

    names: list[str]
    deletes: bool


def plan_removal(text: str, image_id: str, names: list[str], use: ImageUse, *, force: bool) -> Removal:
    """What `docker rmi TEXT` does to the image that TEXT names. Conflict with Docker's text.

    `names` are the image's full names with tags and with digests. By force, an image that a container uses loses its names only.
    """
    if image_id.startswith(text) or image_id.removeprefix("sha256:").startswith(text):
        _check(image_id, use, referenced=len(names) > 0 and not is_single_reference(names), force=force)
        return Removal(names, not use.container)
    if not force and use.container and is_single_reference(names):
        raise Conflict(
            f'conflict: unable to remove repository reference "{text}" (must force) - container {use.container} is using its '
            f"referenced image {image_id[7:19]}"
        )
    reference = parse_reference(text).with_default_tag()
    removed = [f"{reference.name}@{reference.digest}" if reference.digest else f"{reference.name}:{reference.tag}"]
    if not reference.digest and not any(
        repository_of(name) == reference.name and "@" not in name and name not in removed for name in names
    ):
        # With the last tag of a repository its digests go.
        removed += [name for name in names if "@" in name and repository_of(name) == reference.name]
    rest = set(names).difference(removed)
    return Removal(removed, not rest and not use.container and not use.has_children)


def is_single_reference(names: list[str]) -> bool:
    """Whether all names are of one repository, with at most one tag. No name at all is not a single reference."""
    if len(names) <= 1:
        return len(names) == 1
    tags = [name for name in names if "@" not in name]
    return len(tags) <= 1 and len({repository_of(name) for name in names}) == 1


def repository_of(name: str) -> str:
    """A full name without its tag and digest."""
    return parse_reference(name).name


def _check(image_id: str, use: ImageUse, *, referenced: bool, force: bool) -> None:
    """Conflict for the first reason not to delete an image by its id."""
    for holds, forced, reason in (
        (use.has_children, False, "image has dependent child images"),
        (use.running, False, f"image is being used by running container {use.running}"),
        (referenced, True, "image is referenced in multiple repositories"),
        (use.stopped, True, f"image is being used by stopped container {use.stopped}"),
    ):
        if holds and not (forced and force):
            how = "must be forced" if forced else "cannot be forced"
            raise Conflict(f"conflict: unable to delete {image_id[7:19]} ({how}) - {reason}")
