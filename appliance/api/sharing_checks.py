"""What a create request may not combine with `container:X` as a namespace mode. Texts and order are moby's (runconfig/hostconfig.go)."""

from collections.abc import Collection

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.container.sharing import CONTAINER, SHARED_NETWORK, machine_memory, machine_name, shares_network
from appliance.errors import InvalidParameter


def check_sharing(config: ContainerConfig, host_config: HostConfig, networks: Collection[str]) -> None:
    """InvalidParameter for the first contradiction. `config` is the client's, without what the image adds; `networks` are the networks that
    the client names in EndpointsConfig.
    """
    labels = config.labels or {}
    machine_name(labels)
    machine_memory(labels)
    if host_config.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    mode = host_config.network_mode or ""
    # Without a container it is no mode, and no name that a network could have.
    if mode in ("container", CONTAINER):
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    if not shares_network(host_config):
        return
    for used, text in (
        (config.hostname, "hostname and the network mode"),
        (
            host_config.links,
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (host_config.dns, "dns and the network mode"),
        (host_config.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (
            host_config.port_bindings or host_config.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (config.exposed_ports, "port exposing and the container type network mode"),
        (config.mac_address, "mac-address and the network mode"),
    ):
        if used:
            raise InvalidParameter(f"conflicting options: {text}")
    if networks:
        raise InvalidParameter(SHARED_NETWORK)
