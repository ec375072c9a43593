"""Docker's legacy links: environment variables that describe another container on the default network. Pure."""

from appliance.container.config import ContainerConfig
from appliance.errors import InvalidParameter


def parse_link(text: str) -> tuple[str, str]:
    """(container, alias) of "container[:alias]". InvalidParameter for another text."""
    name, _, alias = text.partition(":")
    name = name.removeprefix("/")
    alias = alias.rpartition("/")[2] or name
    if not name or ":" in alias:
        raise InvalidParameter(f"bad format for links: {text}")
    return name, alias


def link_environment(parent: str, alias: str, address: str, child: ContainerConfig) -> list[str]:
    """The variables for a link to a container whose configuration is `child` (moby daemon/links)."""
    prefix = alias.replace("-", "_").upper()
    env = [f"{prefix}_NAME=/{parent}/{alias}"]
    ports = sorted(child.exposed_ports or (), key=lambda text: (text.partition("/")[2], int(text.partition("/")[0])))
    for index, exposed in enumerate(ports):
        port, _, protocol = exposed.partition("/")
        protocol = protocol or "tcp"
        url = f"{protocol}://{address}:{port}"
        if index == 0:
            env.append(f"{prefix}_PORT={url}")
        base = f"{prefix}_PORT_{port}_{protocol.upper()}"
        env += [f"{base}={url}", f"{base}_ADDR={address}", f"{base}_PORT={port}", f"{base}_PROTO={protocol}"]
    for entry in child.env or ():
        name, equals, value = entry.partition("=")
        # HOME and PATH come from the image and describe nothing about the container.
        if equals and name not in ("HOME", "PATH"):
            env.append(f"{prefix}_ENV_{name}={value}")
    return env
