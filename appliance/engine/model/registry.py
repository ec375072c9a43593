"""All containers in memory, by id and by name. The services of the engine and the routes share it."""

from appliance.container.container_record import LIKE_AN_ID, NAME, find_container
from appliance.engine.model.container import Container
from appliance.errors import Conflict, InvalidParameter


class ContainerRegistry:
    """Names are unique; a name may be taken before its container is added. Errors carry Docker's texts."""

    def __init__(self) -> None:
        self._containers: dict[str, Container] = {}
        # Name to container id.
        self._names: dict[str, str] = {}

    def all(self) -> list[Container]:
        return list(self._containers.values())

    def get(self, ref: str) -> Container:
        """See find_container."""
        found = self._containers.get(ref) or self._containers.get(self._names.get(ref.removeprefix("/"), ""))
        return found or find_container(self._containers.values(), ref)

    def user_of_image(self, image_id: str, *, running: bool) -> str | None:
        """The short id of a container of the image that runs, or of one that does not run, if there is one."""
        users = (c for c in self._containers.values() if c.record.image_id == image_id)
        return next((c.id[:12] for c in users if running == (c.running or c.restarting)), None)

    def add(self, container: Container) -> None:
        """Add a container, under its name."""
        self._containers[container.id] = container
        self._names[container.record.name] = container.id

    def remove(self, container: Container) -> None:
        """Forget a container and its name."""
        del self._containers[container.id]
        del self._names[container.record.name]

    def has_name(self, name: str) -> bool:
        return name in self._names

    def take_name(self, name: str, container_id: str, owner: str = "") -> str:
        """Reserve a name for a container of an owner; the name without a leading slash. Conflict when another container has it.

        An owner learns no ids of others, and gets no name that looks like an id: clients would mistake it for another's container.
        """
        name = name.removeprefix("/")
        if not NAME.fullmatch(name):
            raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if owner and LIKE_AN_ID.fullmatch(name):
            raise InvalidParameter(f"Invalid container name ({name}), names that look like an ID are not allowed")
        if name in self._names:
            holder = self._containers.get(self._names[name])
            foreign = owner and (holder is None or holder.record.owner != owner)
            by = "" if foreign else f' by container "{self._names[name]}"'
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use{by}. '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id
        return name

    def release_name(self, name: str) -> None:
        self._names.pop(name, None)
