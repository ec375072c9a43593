"""How many useless bytes a peer may send."""

# A line that loses bytes makes the link repeat at most a window (1 MiB) each second. Firmware and kernels write some 100 KiB.
_BURST = 8 << 20
_PER_SECOND = 1 << 20


class JunkAllowance:
    """An allowance of useless bytes that refills with time (a token bucket): `burst` at once, then `rate` each second."""

    def __init__(self, now: float, burst: int = _BURST, rate: int = _PER_SECOND) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = now
        self._counted = 0

    def exceeded(self, total: int, now: float) -> bool:
        """Take the useless bytes since the last call off the allowance; `total` counts all of them so far."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - (total - self._counted)
        self._at, self._counted = now, total
        return self._left < 0
