"""The OVF environment as XML."""

import pytest

from appliance.errors import InvalidParameter
from appliance.provision.environment import encode, parse


def test_an_environment_is_read_as_it_was_written() -> None:
    values = {"a": 'quotes " and <angles> & more', "b": "two\nlines"}
    assert parse(encode(values)).values["a"] == values["a"]
    with pytest.raises(InvalidParameter, match="OVF environment"):
        parse(b"<a/>")
    for text in (b"", b"\xff\xfe", b"<Environment", b"x" * (2 << 20)):
        with pytest.raises(InvalidParameter, match="OVF environment"):
            parse(text)
