"""What a client asks of `docker commit`."""

from dataclasses import dataclass

from appliance.container.config import ContainerConfig


@dataclass(frozen=True, slots=True)
class Commit:
    """`name` is repo[:tag] or "". `config` overrides the container's configuration, None overrides nothing.

    `changes` are Dockerfile instructions, applied to `config` before it overrides the container's. `only_new_name`: no image may have
    the name.
    """

    name: str
    comment: str
    author: str
    pause: bool
    changes: list[str]
    config: ContainerConfig | None
    only_new_name: bool = False
