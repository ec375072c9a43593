"""The storage quota."""

import pytest

from appliance.engine.quota import Quota
from appliance.errors import Unavailable

_GIB = 1 << 30


def _quota(limit: int, *uses: int) -> Quota:
    quota = Quota(limit)
    for number in uses:

        async def use(number: int = number) -> int:
            return number

        quota.count(use)
    return quota


async def test_without_a_limit_all_is_admitted() -> None:
    quota = _quota(0, 100 * _GIB)
    await quota.admit(1 << 60)
    assert await quota.facts() == {}
    assert await quota.room() is None


async def test_the_room_that_is_left() -> None:
    assert await _quota(3 * _GIB, _GIB, _GIB).room() == _GIB
    assert await _quota(3 * _GIB, 5 * _GIB).room() == 0


async def test_images_and_containers_count_together() -> None:
    quota = _quota(3 * _GIB, _GIB, _GIB)
    await quota.admit(_GIB)
    await quota.admit()
    with pytest.raises(Unavailable) as caught:
        await quota.admit(_GIB + 1)
    assert str(caught.value) == "storage quota exceeded: 2 GiB of 3 GiB are used, and 1 GiB more are needed"
    assert await quota.facts() == {"Storage quota": "2 GiB of 3 GiB"}


@pytest.mark.parametrize("used", [3 * _GIB, 5 * _GIB])
async def test_a_full_quota_admits_nothing(used: int) -> None:
    with pytest.raises(Unavailable, match=r"storage quota exceeded: . GiB of 3 GiB are used$"):
        await _quota(3 * _GIB, used).admit()
