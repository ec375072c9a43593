from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Socket(_message.Message):
    __slots__ = ("number", "mode", "uid", "gid")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    number: int
    mode: int
    uid: int
    gid: int
    def __init__(self, number: _Optional[int] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class ListenRequest(_message.Message):
    __slots__ = ("sockets",)
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    sockets: _containers.RepeatedCompositeFieldContainer[Socket]
    def __init__(self, sockets: _Optional[_Iterable[_Union[Socket, _Mapping]]] = ...) -> None: ...

class ListenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AcceptRequest(_message.Message):
    __slots__ = ("sockets",)
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    sockets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sockets: _Optional[_Iterable[int]] = ...) -> None: ...

class AcceptResponse(_message.Message):
    __slots__ = ("socket", "connection", "uid", "gid")
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    socket: int
    connection: int
    uid: int
    gid: int
    def __init__(self, socket: _Optional[int] = ..., connection: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("accepted", "unix_path", "tcp_address", "id")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    UNIX_PATH_FIELD_NUMBER: _ClassVar[int]
    TCP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    unix_path: str
    tcp_address: str
    id: str
    def __init__(self, accepted: _Optional[int] = ..., unix_path: _Optional[str] = ..., tcp_address: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("target", "data", "taken", "end", "closed")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    target: Target
    data: bytes
    taken: int
    end: bool
    closed: bool
    def __init__(self, target: _Optional[_Union[Target, _Mapping]] = ..., data: _Optional[bytes] = ..., taken: _Optional[int] = ..., end: _Optional[bool] = ..., closed: _Optional[bool] = ...) -> None: ...
