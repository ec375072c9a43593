"""Names for containers that the client does not name."""

import re

import pytest

from appliance.container.container_record import NAME
from appliance.engine.containers.random_names import random_name


@pytest.mark.parametrize(
    ("attempt", "shape"),
    [(0, r"[a-z]+_[a-z]+"), (4, r"[a-z]+_[a-z]+"), (5, r"[a-z]+_[a-z]+\d"), (7, r"[a-z]+_[a-z]+\d{1,3}")],
)
def test_shapes(attempt: int, shape: str) -> None:
    for _ in range(50):
        name = random_name(attempt)
        assert re.fullmatch(shape, name)
        assert NAME.fullmatch(name)


def test_later_attempts_have_more_names_to_choose_from() -> None:
    assert len({random_name(0) for _ in range(200)}) > 50
    assert len({random_name(20) for _ in range(200)}) == 200
