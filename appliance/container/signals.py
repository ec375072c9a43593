"""Signal names as the docker CLI takes them (moby/sys/signal), Linux on x86-64."""

import re
import signal

from appliance.errors import InvalidParameter

_RTMIN, _RTMAX = 34, 64
_NAMES = {
    name.removeprefix("SIG"): int(getattr(signal, name))
    for name in dir(signal)
    if name.startswith("SIG") and name.isupper() and not name.startswith("SIG_")
}
_NAMES |= {"CLD": 17, "POLL": 29, "IOT": 6, "STKFLT": 16, "UNUSED": 31, "RTMIN": _RTMIN, "RTMAX": _RTMAX}
_NAMES |= {f"RTMIN+{n}": _RTMIN + n for n in range(1, 16)} | {f"RTMAX-{n}": _RTMAX - n for n in range(1, 15)}


def parse_signal(text: str) -> int:
    """1 to 64 from a number or a name with or without SIG, in any case. InvalidParameter in Docker's words."""
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        number = int(text)
        if 1 <= number <= 64:
            return number
        raise InvalidParameter(f"invalid signal: {text}")
    number = _NAMES.get(text.upper().removeprefix("SIG"), 0)
    if not number:
        raise InvalidParameter(f"invalid signal: {text}")
    return number
