"""An event of `docker events`."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """`type` is the kind of the object (container, image...); `time_ns` is unix ns.

    `owner` is the scope to which the object belongs, "" for an object of a principal that sees all objects.
    """

    type: str
    action: str
    id: str
    attributes: dict[str, str] = field(default_factory=dict)
    time_ns: int = field(default_factory=time.time_ns)
    owner: str = ""
