"""Prunes of the build cache."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from appliance.container.build_request import PruneRequest
from appliance.engine.builds.cache import BuildCache
from appliance.engine.model.events import EventBus
from appliance.errors import InvalidParameter
from protos.buildkit.v1 import control_pb2
from tests.appliance.buildkit.served import CONTROL, fake_channel
from tests.appliance.engine.builds.fakes import FakeBuilders


async def _prune(requests: AsyncIterator[bytes], context: Any) -> None:
    async for raw in requests:
        asked = control_pb2.PruneRequest.FromString(raw)
        if "bad" in asked.filters:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad filter")
        for number in range(3):
            await context.write(control_pb2.UsageRecord(id=str(number), size=10).SerializeToString())


async def test_a_prune() -> None:
    events = EventBus()
    async with fake_channel({CONTROL + "Prune": _prune}) as channel:
        cache = BuildCache(FakeBuilders(channel), events, lambda: True)
        assert await cache.prune(PruneRequest()) == (["0", "1", "2"], 30)
        with pytest.raises(InvalidParameter, match="failed to prune build cache: bad filter"):
            await cache.prune(PruneRequest(filters=("bad",)))
        builders = FakeBuilders(channel)
        assert await BuildCache(builders, events, lambda: False).prune(PruneRequest()) == ([], 0)
        assert not builders.running
    published = [(one.type, one.action, one.attributes) for one in events.past(0)]
    assert published == [("builder", "prune", {"reclaimed": "30"}), ("builder", "prune", {"reclaimed": "0"})]
