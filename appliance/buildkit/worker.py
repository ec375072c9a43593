"""What BuildKit says of itself: the answers of Control/ListWorkers and Control/Info. Those of a first build are made here."""

from google.protobuf.message import DecodeError, Message

from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2

LIST_WORKERS = "/moby.buildkit.v1.Control/ListWorkers"
INFO = "/moby.buildkit.v1.Control/Info"
# The version of BuildKit that vchd is tested with.
TESTED_VERSION = "v0.34.2"
_PACKAGE = "github.com/moby/buildkit"
# Of a worker with runc, as BuildKit's worker/label names them.
_LABELS = {
    "org.mobyproject.buildkit.worker.executor": "oci",
    "org.mobyproject.buildkit.worker.hostname": "vch-builder",
    "org.mobyproject.buildkit.worker.network": "host",
    "org.mobyproject.buildkit.worker.oci.process-mode": "sandbox",
    "org.mobyproject.buildkit.worker.selinux.enabled": "false",
    "org.mobyproject.buildkit.worker.snapshotter": "overlayfs",
}
_ARCHITECTURES = ("amd64", "386")


def first_workers() -> bytes:
    """An answer of ListWorkers for a builder that has never run."""
    worker = control_pb2.Worker(id="vch-builder", labels=_LABELS)
    for architecture in _ARCHITECTURES:
        worker.platforms.add(architecture=architecture, os="linux")
    worker.version.CopyFrom(control_pb2.Version(package=_PACKAGE, version=TESTED_VERSION))
    return control_pb2.WorkersAnswer(workers=[worker]).SerializeToString()


def first_info() -> bytes:
    """An answer of Info for a builder that has never run."""
    version = control_pb2.Version(package=_PACKAGE, version=TESTED_VERSION)
    return control_pb2.InfoAnswer(version=version).SerializeToString()


def version_untrusted(info: bytes) -> str:
    """The version in an answer of Info, "" without one. ProtocolError."""
    answer = control_pb2.InfoAnswer()
    _parse(answer, info)
    return answer.version.version[:64]


def check_workers_untrusted(workers: bytes) -> None:
    """ProtocolError when the bytes are not an answer of ListWorkers that has a worker."""
    answer = control_pb2.WorkersAnswer()
    _parse(answer, workers)
    if not answer.workers:
        raise ProtocolError("BuildKit has no worker: its log says why")


def _parse(answer: Message, raw: bytes) -> None:
    try:
        answer.ParseFromString(raw)
    except DecodeError as error:
        raise ProtocolError(f"malformed answer of BuildKit: {error}") from error
