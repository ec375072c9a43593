from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DialRequest(_message.Message):
    __slots__ = ("id", "unix_path", "tcp_address", "data")
    ID_FIELD_NUMBER: _ClassVar[int]
    UNIX_PATH_FIELD_NUMBER: _ClassVar[int]
    TCP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    unix_path: str
    tcp_address: str
    data: bytes
    def __init__(self, id: _Optional[str] = ..., unix_path: _Optional[str] = ..., tcp_address: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class DialResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
