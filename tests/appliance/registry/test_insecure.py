"""Registries without TLS."""

import pytest

from appliance.registry.insecure import is_insecure


@pytest.mark.parametrize(
    ("host", "named", "insecure"),
    [
        ("localhost:5000", (), True),
        ("127.3.4.5:5000", (), True),
        ("[::1]:5000", (), True),
        ("registry.test", (), False),
        ("registry.test:5000", ("registry.test:5000",), True),
        ("registry.test:5001", ("registry.test:5000",), False),
        ("10.1.2.3:5000", ("10.0.0.0/8",), True),
        ("11.1.2.3:5000", ("10.0.0.0/8", "nonsense/99"), False),
        ("registry.test", ("10.0.0.0/8",), False),
    ],
)
def test_dockers_rule(host: str, named: tuple[str, ...], insecure: bool) -> None:
    assert is_insecure(host, named) is insecure
