"""Records of containers that have a log driver."""

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig, LogConfig


def record_with(driver: str, options: dict[str, str]) -> ContainerRecord:
    return ContainerRecord(
        "0123456789ab" * 5 + "cdef",
        "name",
        0,
        "sha256:" + "f" * 64,
        "busybox",
        ContainerConfig(),
        HostConfig(log_config=LogConfig(driver, options)),
    )
