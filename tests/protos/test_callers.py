"""Every method of every service of the tether has a caller in the appliance and a handler in the guest."""

import re
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor

from protos.tether.v1 import (
    filesystem_pb2,
    metrics_pb2,
    network_pb2,
    process_pb2,
    sandbox_pb2,
    status_pb2,
    stdio_pb2,
    tunnel_pb2,
)
from tether.agent.files import FilesystemService
from tether.agent.machine import SandboxService
from tether.agent.network import NetworkService
from tether.agent.process import ProcessService
from tether.agent.stats import MetricsService
from tether.agent.stdio import StdioService
from tether.agent.tunnel import TunnelService
from tether.rpc.call import methods_of

ROOT = Path(__file__).resolve().parent.parent.parent
FILES: tuple[FileDescriptor, ...] = (
    filesystem_pb2.DESCRIPTOR,
    metrics_pb2.DESCRIPTOR,
    network_pb2.DESCRIPTOR,
    process_pb2.DESCRIPTOR,
    sandbox_pb2.DESCRIPTOR,
    status_pb2.DESCRIPTOR,
    stdio_pb2.DESCRIPTOR,
    tunnel_pb2.DESCRIPTOR,
)
# Methods without a caller yet, and the issue that will call each.
PLANNED = {"Metrics/Watch": "M"}
SERVICES = {
    "Filesystem": FilesystemService,
    "Log": StdioService,
    "Metrics": MetricsService,
    "Network": NetworkService,
    "Process": ProcessService,
    "Sandbox": SandboxService,
    "Stdio": StdioService,
    "Tunnel": TunnelService,
}


def _methods() -> set[str]:
    return {
        f"{service.name}/{method.name}"
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }


def _called() -> set[str]:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "appliance").rglob("*.py")))
    return set(re.findall(r'"(?:/tether\.v1\.)?([A-Z][a-z]+/[A-Z][A-Za-z]+)"', text)) & _methods()


def test_all_proto_files_are_listed() -> None:
    listed = {file.name for file in FILES}
    assert listed == {str(path.relative_to(ROOT)) for path in (ROOT / "protos/tether").rglob("*.proto")}


def test_each_method_has_a_caller() -> None:
    assert _methods() - _called() == PLANNED.keys()


def test_each_method_has_a_handler() -> None:
    handled = {
        path.decode().removeprefix("/tether.v1.")
        for file in FILES
        for name, service in file.services_by_name.items()
        if name in SERVICES
        for path in methods_of(service, SERVICES[name])
    }
    assert _methods() == handled
