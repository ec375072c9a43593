"""A confined process ends before it takes more than its share."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("confine(300 << 20); x = bytes(400 << 20)", 1),
        (
            "confine(1 << 30); limit_cpu_time(5)\nimport resource; assert resource.getrlimit(resource.RLIMIT_CPU)[0] in (6, 7)",
            0,
        ),
    ],
)
def test_limits(code: str, status: int) -> None:
    line = f"from appliance.image.confined import confine, limit_cpu_time\n{code}"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, check=False)
    assert done.returncode == status
    assert (b"MemoryError" in done.stderr) == (status == 1)
