"""The fakes of builds hold what the contracts say."""

import pytest

from appliance.engine.builds.contracts import PushedImage
from appliance.errors import ProtocolError
from tests.appliance.buildkit.served import CONTROL, echo, fake_channel
from tests.appliance.engine.builds.fakes import DOOR, FakeBuilders, FakeUploads


async def test_a_build_by_the_contracts() -> None:
    async with fake_channel({CONTROL + "Solve": echo}) as channel:
        builders, uploads = FakeBuilders(channel), FakeUploads()
        assert not builders.running
        async with builders.use() as lease, uploads.open() as upload:
            assert lease.door == DOOR
            assert await lease.channel.call(CONTROL + "Solve", b"request") == b"request"
            with pytest.raises(ProtocolError):
                await upload.finish()
            uploads.opened[0].pushed = PushedImage("sha256:0", 1)
            assert (await upload.finish()).image_id == "sha256:0"
        assert builders.running
        assert (builders.users, uploads.under_way) == (0, 0)
