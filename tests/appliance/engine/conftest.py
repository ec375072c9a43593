"""A daemon without VMs, for the tests of the engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.appliance.engine.guest import echo
from tests.appliance.engine.harness import Engine, Host, engine


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    return Host(nursery, echo=echo)


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as running:
            yield running
