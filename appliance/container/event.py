"""What happened to a container or an image, for `docker events`."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """`type` is container, image...; `time_ns` unix ns."""

    type: str
    action: str
    id: str
    attributes: dict[str, str] = field(default_factory=dict)
    time_ns: int = field(default_factory=time.time_ns)
