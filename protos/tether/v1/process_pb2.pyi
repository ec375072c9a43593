from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateRequest(_message.Message):
    __slots__ = ("id", "spec", "join", "stdin", "spool_bytes", "drop_oldest", "rows", "columns", "network_of", "pid_of", "ipc_of")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    SPOOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DROP_OLDEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_OF_FIELD_NUMBER: _ClassVar[int]
    PID_OF_FIELD_NUMBER: _ClassVar[int]
    IPC_OF_FIELD_NUMBER: _ClassVar[int]
    id: str
    spec: bytes
    join: str
    stdin: bool
    spool_bytes: int
    drop_oldest: bool
    rows: int
    columns: int
    network_of: str
    pid_of: str
    ipc_of: str
    def __init__(self, id: _Optional[str] = ..., spec: _Optional[bytes] = ..., join: _Optional[str] = ..., stdin: _Optional[bool] = ..., spool_bytes: _Optional[int] = ..., drop_oldest: _Optional[bool] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., network_of: _Optional[str] = ..., pid_of: _Optional[str] = ..., ipc_of: _Optional[str] = ...) -> None: ...

class StartResponse(_message.Message):
    __slots__ = ("pid", "started_ns")
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    started_ns: int
    def __init__(self, pid: _Optional[int] = ..., started_ns: _Optional[int] = ...) -> None: ...

class StartFailure(_message.Message):
    __slots__ = ("kind", "errno", "subject", "step", "searched_path")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OTHER: _ClassVar[StartFailure.Kind]
        NOT_FOUND: _ClassVar[StartFailure.Kind]
        PERMISSION: _ClassVar[StartFailure.Kind]
        NO_SUCH_USER: _ClassVar[StartFailure.Kind]
        NO_SUCH_GROUP: _ClassVar[StartFailure.Kind]
        BAD_WORKING_DIRECTORY: _ClassVar[StartFailure.Kind]
        SETUP: _ClassVar[StartFailure.Kind]
    OTHER: StartFailure.Kind
    NOT_FOUND: StartFailure.Kind
    PERMISSION: StartFailure.Kind
    NO_SUCH_USER: StartFailure.Kind
    NO_SUCH_GROUP: StartFailure.Kind
    BAD_WORKING_DIRECTORY: StartFailure.Kind
    SETUP: StartFailure.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEARCHED_PATH_FIELD_NUMBER: _ClassVar[int]
    kind: StartFailure.Kind
    errno: int
    subject: str
    step: str
    searched_path: bool
    def __init__(self, kind: _Optional[_Union[StartFailure.Kind, str]] = ..., errno: _Optional[int] = ..., subject: _Optional[str] = ..., step: _Optional[str] = ..., searched_path: _Optional[bool] = ...) -> None: ...

class SignalRequest(_message.Message):
    __slots__ = ("id", "signal", "all")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    id: str
    signal: int
    all: bool
    def __init__(self, id: _Optional[str] = ..., signal: _Optional[int] = ..., all: _Optional[bool] = ...) -> None: ...

class SignalResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class WaitResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ExitStatus
    def __init__(self, status: _Optional[_Union[ExitStatus, _Mapping]] = ...) -> None: ...

class ExitStatus(_message.Message):
    __slots__ = ("code", "signal", "core_dumped", "oom_killed", "exited_ns", "final_offset")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    CORE_DUMPED_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLED_FIELD_NUMBER: _ClassVar[int]
    EXITED_NS_FIELD_NUMBER: _ClassVar[int]
    FINAL_OFFSET_FIELD_NUMBER: _ClassVar[int]
    code: int
    signal: int
    core_dumped: bool
    oom_killed: bool
    exited_ns: int
    final_offset: int
    def __init__(self, code: _Optional[int] = ..., signal: _Optional[int] = ..., core_dumped: _Optional[bool] = ..., oom_killed: _Optional[bool] = ..., exited_ns: _Optional[int] = ..., final_offset: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("processes",)
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    processes: _containers.RepeatedCompositeFieldContainer[ProcessState]
    def __init__(self, processes: _Optional[_Iterable[_Union[ProcessState, _Mapping]]] = ...) -> None: ...

class ProcessState(_message.Message):
    __slots__ = ("id", "phase", "pid", "started_ns", "exit", "acknowledged_offset", "written_offset", "join", "terminal")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CREATED: _ClassVar[ProcessState.Phase]
        RUNNING: _ClassVar[ProcessState.Phase]
        EXITED: _ClassVar[ProcessState.Phase]
        PAUSED: _ClassVar[ProcessState.Phase]
    CREATED: ProcessState.Phase
    RUNNING: ProcessState.Phase
    EXITED: ProcessState.Phase
    PAUSED: ProcessState.Phase
    ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_OFFSET_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_OFFSET_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    id: str
    phase: ProcessState.Phase
    pid: int
    started_ns: int
    exit: ExitStatus
    acknowledged_offset: int
    written_offset: int
    join: str
    terminal: bool
    def __init__(self, id: _Optional[str] = ..., phase: _Optional[_Union[ProcessState.Phase, str]] = ..., pid: _Optional[int] = ..., started_ns: _Optional[int] = ..., exit: _Optional[_Union[ExitStatus, _Mapping]] = ..., acknowledged_offset: _Optional[int] = ..., written_offset: _Optional[int] = ..., join: _Optional[str] = ..., terminal: _Optional[bool] = ...) -> None: ...

class ResizePtyRequest(_message.Message):
    __slots__ = ("id", "rows", "columns")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    id: str
    rows: int
    columns: int
    def __init__(self, id: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class ResizePtyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TopRequest(_message.Message):
    __slots__ = ("id", "arguments")
    ID_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    arguments: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., arguments: _Optional[_Iterable[str]] = ...) -> None: ...

class TopResponse(_message.Message):
    __slots__ = ("output", "pids")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    output: bytes
    pids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, output: _Optional[bytes] = ..., pids: _Optional[_Iterable[int]] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("id", "resources")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    id: str
    resources: bytes
    def __init__(self, id: _Optional[str] = ..., resources: _Optional[bytes] = ...) -> None: ...

class UpdateResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
