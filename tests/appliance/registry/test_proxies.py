"""Which requests go through a proxy. The rows of NO_PROXY are those of golang.org/x/net's own rules."""

import pytest

from appliance.registry import Proxies

_ADDRESS = "http://proxy.test:3128"


def _through(no_proxy: str, host: str, port: int | None = None, scheme: str = "http") -> bool:
    return bool(Proxies(_ADDRESS, _ADDRESS, no_proxy).proxy_for(scheme, host, port))


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "through"),
    [
        ("", "registry.test", None, True),
        ("", "localhost", None, False),
        ("", "127.3.4.5", 5000, False),
        ("", "::1", None, False),
        ("*", "registry.test", None, False),
        ("registry.test", "registry.test", None, False),
        ("registry.test", "a.registry.test", None, False),
        ("registry.test", "aregistry.test", None, True),
        ("registry.test", "REGISTRY.test.", None, False),
        (".registry.test", "a.registry.test", None, False),
        (".registry.test", "registry.test", None, True),
        ("*.registry.test", "a.registry.test", None, False),
        ("other.test, registry.test", "registry.test", None, False),
        ("registry.test:5000", "registry.test", 5000, False),
        ("registry.test:5000", "registry.test", 5001, True),
        ("registry.test:80", "registry.test", None, False),
        ("10.1.2.3", "10.1.2.3", None, False),
        ("10.1.2.3", "10.1.2.4", None, True),
        ("10.1.2.3:5000", "10.1.2.3", 5000, False),
        ("10.0.0.0/8", "10.200.1.1", None, False),
        ("10.0.0.0/8", "11.0.0.1", None, True),
        ("10.0.0.0/8", "ten.test", None, True),
        ("10.0.0.0/99", "10.0.0.1", None, True),
        ("fd00::/8", "fd00::5", None, False),
        ("[fd00::5]:5000", "fd00::5", 5000, False),
        ("fd00::5", "fd00::5", 1, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int | None, through: bool) -> None:
    assert _through(no_proxy, host, port) is through


def test_one_for_each_scheme() -> None:
    proxies = Proxies("one.test:1", "", "")
    assert proxies.proxy_for("http", "registry.test", None) == "http://one.test:1"
    assert proxies.proxy_for("https", "registry.test", None) == ""


def test_settings_override_the_environment() -> None:
    environment = {"http_proxy": "http://low.test", "HTTPS_PROXY": "http://high.test", "no_proxy": "a.test"}
    assert Proxies.of(environment) == Proxies("http://low.test", "http://high.test", "a.test")
    assert Proxies.of(environment, http="http://said.test", no_proxy="b.test") == Proxies(
        "http://said.test", "http://high.test", "b.test"
    )


def test_secrets_are_not_shown() -> None:
    shown = Proxies().shown
    assert shown("http://user:secret@proxy.test:1") == "http://xxxxx:xxxxx@proxy.test:1"
    assert shown(_ADDRESS) == _ADDRESS
