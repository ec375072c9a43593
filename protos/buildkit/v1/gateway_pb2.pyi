from protos.buildkit.v1 import control_pb2 as _control_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FrontendSolve(_message.Message):
    __slots__ = ("frontend", "frontend_attributes", "cache_imports")
    class FrontendAttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FRONTEND_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_IMPORTS_FIELD_NUMBER: _ClassVar[int]
    frontend: str
    frontend_attributes: _containers.ScalarMap[str, str]
    cache_imports: _containers.RepeatedCompositeFieldContainer[_control_pb2.CacheEntry]
    def __init__(self, frontend: _Optional[str] = ..., frontend_attributes: _Optional[_Mapping[str, str]] = ..., cache_imports: _Optional[_Iterable[_Union[_control_pb2.CacheEntry, _Mapping]]] = ...) -> None: ...
