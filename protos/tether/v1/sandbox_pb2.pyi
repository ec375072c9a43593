from protos.tether.v1 import filesystem_pb2 as _filesystem_pb2
from protos.tether.v1 import network_pb2 as _network_pb2
from protos.tether.v1 import process_pb2 as _process_pb2
from protos.tether.v1 import stdio_pb2 as _stdio_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "appliance")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    APPLIANCE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    appliance: str
    def __init__(self, protocol: _Optional[int] = ..., appliance: _Optional[str] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("protocol", "version", "boot_id", "machine_id", "monotonic_ns", "boot", "kernel", "memory_total", "memory_available", "adds")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    ADDS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    boot_id: bytes
    machine_id: str
    monotonic_ns: int
    boot: _containers.RepeatedCompositeFieldContainer[BootMark]
    kernel: str
    memory_total: int
    memory_available: int
    adds: bool
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., boot_id: _Optional[bytes] = ..., machine_id: _Optional[str] = ..., monotonic_ns: _Optional[int] = ..., boot: _Optional[_Iterable[_Union[BootMark, _Mapping]]] = ..., kernel: _Optional[str] = ..., memory_total: _Optional[int] = ..., memory_available: _Optional[int] = ..., adds: _Optional[bool] = ...) -> None: ...

class BootMark(_message.Message):
    __slots__ = ("name", "boottime_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    boottime_ns: int
    def __init__(self, name: _Optional[str] = ..., boottime_ns: _Optional[int] = ...) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("machine_id", "wall_clock_ns", "entropy", "hostname", "domainname", "modules", "mounts", "network", "files", "sysctls", "volumes")
    class SysctlsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_NS_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    DOMAINNAME_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SYSCTLS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    machine_id: str
    wall_clock_ns: int
    entropy: bytes
    hostname: str
    domainname: str
    modules: _containers.RepeatedScalarFieldContainer[str]
    mounts: _containers.RepeatedCompositeFieldContainer[_filesystem_pb2.Mount]
    network: _network_pb2.NetworkConfig
    files: _containers.RepeatedCompositeFieldContainer[StateFile]
    sysctls: _containers.ScalarMap[str, str]
    volumes: _containers.RepeatedCompositeFieldContainer[_filesystem_pb2.Volume]
    def __init__(self, machine_id: _Optional[str] = ..., wall_clock_ns: _Optional[int] = ..., entropy: _Optional[bytes] = ..., hostname: _Optional[str] = ..., domainname: _Optional[str] = ..., modules: _Optional[_Iterable[str]] = ..., mounts: _Optional[_Iterable[_Union[_filesystem_pb2.Mount, _Mapping]]] = ..., network: _Optional[_Union[_network_pb2.NetworkConfig, _Mapping]] = ..., files: _Optional[_Iterable[_Union[StateFile, _Mapping]]] = ..., sysctls: _Optional[_Mapping[str, str]] = ..., volumes: _Optional[_Iterable[_Union[_filesystem_pb2.Volume, _Mapping]]] = ...) -> None: ...

class StateFile(_message.Message):
    __slots__ = ("name", "content", "mode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    content: bytes
    mode: int
    def __init__(self, name: _Optional[str] = ..., content: _Optional[bytes] = ..., mode: _Optional[int] = ...) -> None: ...

class ConfigureResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AddRequest(_message.Message):
    __slots__ = ("id", "modules", "mounts", "files", "volumes", "network", "own_network", "hostname")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    OWN_NETWORK_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    id: str
    modules: _containers.RepeatedScalarFieldContainer[str]
    mounts: _containers.RepeatedCompositeFieldContainer[_filesystem_pb2.Mount]
    files: _containers.RepeatedCompositeFieldContainer[StateFile]
    volumes: _containers.RepeatedCompositeFieldContainer[_filesystem_pb2.Volume]
    network: _network_pb2.NetworkConfig
    own_network: bool
    hostname: str
    def __init__(self, id: _Optional[str] = ..., modules: _Optional[_Iterable[str]] = ..., mounts: _Optional[_Iterable[_Union[_filesystem_pb2.Mount, _Mapping]]] = ..., files: _Optional[_Iterable[_Union[StateFile, _Mapping]]] = ..., volumes: _Optional[_Iterable[_Union[_filesystem_pb2.Volume, _Mapping]]] = ..., network: _Optional[_Union[_network_pb2.NetworkConfig, _Mapping]] = ..., own_network: _Optional[bool] = ..., hostname: _Optional[str] = ...) -> None: ...

class AddResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("id", "disks", "sockets")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    id: str
    disks: _containers.RepeatedCompositeFieldContainer[_filesystem_pb2.Disk]
    sockets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[str] = ..., disks: _Optional[_Iterable[_Union[_filesystem_pb2.Disk, _Mapping]]] = ..., sockets: _Optional[_Iterable[int]] = ...) -> None: ...

class RemoveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LaunchRequest(_message.Message):
    __slots__ = ("protocol", "configure", "process", "add")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CONFIGURE_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    configure: ConfigureRequest
    process: _process_pb2.CreateRequest
    add: AddRequest
    def __init__(self, protocol: _Optional[int] = ..., configure: _Optional[_Union[ConfigureRequest, _Mapping]] = ..., process: _Optional[_Union[_process_pb2.CreateRequest, _Mapping]] = ..., add: _Optional[_Union[AddRequest, _Mapping]] = ...) -> None: ...

class LaunchResponse(_message.Message):
    __slots__ = ("started", "steps", "output")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    started: _process_pb2.StartResponse
    steps: _containers.RepeatedCompositeFieldContainer[BootMark]
    output: _stdio_pb2.Records
    def __init__(self, started: _Optional[_Union[_process_pb2.StartResponse, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[BootMark, _Mapping]]] = ..., output: _Optional[_Union[_stdio_pb2.Records, _Mapping]] = ...) -> None: ...

class ResetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResetResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AwakenRequest(_message.Message):
    __slots__ = ("wall_clock_ns", "entropy", "network", "files", "close_connections", "id")
    WALL_CLOCK_NS_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    CLOSE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    wall_clock_ns: int
    entropy: bytes
    network: _network_pb2.NetworkConfig
    files: _containers.RepeatedCompositeFieldContainer[StateFile]
    close_connections: bool
    id: str
    def __init__(self, wall_clock_ns: _Optional[int] = ..., entropy: _Optional[bytes] = ..., network: _Optional[_Union[_network_pb2.NetworkConfig, _Mapping]] = ..., files: _Optional[_Iterable[_Union[StateFile, _Mapping]]] = ..., close_connections: _Optional[bool] = ..., id: _Optional[str] = ...) -> None: ...

class AwakenResponse(_message.Message):
    __slots__ = ("closed",)
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    closed: int
    def __init__(self, closed: _Optional[int] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("grace_ms",)
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    grace_ms: int
    def __init__(self, grace_ms: _Optional[int] = ...) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
