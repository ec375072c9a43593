"""The networks of one daemon."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.appliance.engine.networking.fake_networks import World, networks_at


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(20):
        async with networks_at(tmp_path) as found:
            yield found
