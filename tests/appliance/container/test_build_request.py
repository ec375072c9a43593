"""What a build request means for BuildKit's frontend, and what vchd refuses."""

from typing import Any

import pytest

from appliance.container.build_request import (
    BuilderFacts,
    BuildOutput,
    BuildRequest,
    BuildUlimit,
    check_build_request,
    frontend_attributes,
    wants_inline_cache,
)
from appliance.errors import InvalidParameter

_BUILDER = BuilderFacts(2 << 30, "172.17.0.1")
_DEFAULT = {"image-resolve-mode": "default"}


def test_a_plain_request_needs_no_attributes() -> None:
    assert frontend_attributes(BuildRequest(), _BUILDER) == _DEFAULT
    assert check_build_request(BuildRequest()) == []
    assert BuildRequest().dockerfile_path == BuildRequest(dockerfile=".").dockerfile_path == "Dockerfile"


@pytest.mark.parametrize(
    ("given", "attributes"),
    [
        ({"target": "one"}, {"target": "one"}),
        ({"nocache": True}, {"no-cache": ""}),
        ({"pull": True}, {"image-resolve-mode": "pull"}),
        ({"platform": "linux/arm64"}, {"platform": "linux/arm64"}),
        ({"cachefrom": ["a", "b:1"]}, {"cache-from": "a,b:1"}),
        ({"buildargs": {"A": "x y", "B": None, "C": ""}}, {"build-arg:A": "x y", "build-arg:C": ""}),
        ({"labels": {"a": "b"}}, {"label:a": "b"}),
        ({"networkmode": "default"}, {}),
        ({"networkmode": "bridge"}, {}),
        ({"networkmode": "none"}, {"force-network-mode": "none"}),
        ({"networkmode": "host"}, {"force-network-mode": "host"}),
        ({"extrahosts": ("a:1.2.3.4", "b:host-gateway")}, {"add-hosts": "a=1.2.3.4,b=172.17.0.1"}),
        ({"extrahosts": ("a:::1", "b:[fd00::2]")}, {"add-hosts": "a=::1,b=fd00::2"}),
        (
            {"ulimits": [BuildUlimit("nofile", 100, 200), BuildUlimit("core", -1, -1)]},
            {"ulimit": "nofile=100:200,core=-1:-1"},
        ),
        ({"shmsize": 1 << 26}, {"shm-size": str(1 << 26)}),
        ({"memory": 1 << 28, "memswap": 1 << 29}, {"memory": str(1 << 28), "memswap": str(1 << 29)}),
        ({"memswap": -1}, {"memswap": "-1"}),
        (
            {"cpushares": 5, "cpuperiod": 100000, "cpuquota": 50000},
            {"cpushares": "5", "cpuperiod": "100000", "cpuquota": "50000"},
        ),
        ({"cpusetcpus": "0-1,3", "cpusetmems": "0"}, {"cpusetcpus": "0-1,3", "cpusetmems": "0"}),
        ({"rm": False, "forcerm": True, "q": True}, {}),
    ],
)
def test_attributes(given: dict[str, Any], attributes: dict[str, str]) -> None:
    request = BuildRequest(**given)
    assert check_build_request(request) == []
    assert frontend_attributes(request, _BUILDER) == _DEFAULT | attributes


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"version": "3"}, 'invalid version "3"'),
        ({"securityopt": ("x",)}, "security options are not supported on linux"),
        ({"squash": True}, "squash is not supported"),
        ({"isolation": "hyperv"}, 'unsupported isolation: "hyperv"'),
        ({"networkmode": "container:x"}, 'network mode "container:x" not supported by buildkit'),
        ({"outputs": [BuildOutput("local"), BuildOutput("tar")], "version": "2"}, "multiple outputs not supported"),
        ({"outputs": [BuildOutput("local")]}, "need version 2"),
        ({"remote": "client-session"}, "need version 2"),
        ({"remote": "client-session", "version": "2"}, "needs the parameter session"),
        ({"remote": "ftp://x"}, r"remoteURL \(ftp://x\) could not be recognized as URL"),
        ({"remote": "upload-request", "version": "2"}, "needs the parameter buildid"),
        ({"memory": -1}, "invalid memory value: -1"),
        ({"cpushares": -1}, "invalid cpushares value"),
        ({"cpuperiod": -1}, "invalid cpuperiod value"),
        ({"cpuquota": -1}, "invalid cpuquota value"),
        ({"shmsize": -1}, "invalid shmsize value"),
        ({"memswap": -2}, "invalid memswap value: -2"),
        ({"memory": 2, "memswap": 1}, "Minimum memoryswap limit"),
        ({"cpusetcpus": "a"}, "invalid cpusetcpus value: a"),
        ({"cpusetmems": "1,"}, "invalid cpusetmems value: 1,"),
        ({"ulimits": [BuildUlimit("nosuch", 1, 1)]}, "invalid ulimit type: nosuch"),
        ({"ulimits": [BuildUlimit("core", 2, 1)]}, "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
    ],
)
def test_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        check_build_request(BuildRequest(**given))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"memory": 3 << 30}, "more than the builder has"),
        ({"extrahosts": ("a",)}, "invalid host a"),
        ({"extrahosts": (":1.2.3.4",)}, "invalid host"),
        ({"extrahosts": ("a:x",)}, "invalid host a:x"),
        ({"extrahosts": ("a,b=6.6.6.6:1.2.3.4",)}, "invalid host"),
        ({"extrahosts": ("a:fe80::1%eth0",)}, "invalid host"),
    ],
)
def test_what_this_builder_cannot_do(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        frontend_attributes(BuildRequest(**given), _BUILDER)


def test_a_gateway_is_needed_for_host_gateway() -> None:
    with pytest.raises(InvalidParameter, match="unable to derive the IP value for host-gateway"):
        frontend_attributes(BuildRequest(extrahosts=("a:host-gateway",)), BuilderFacts(1))


def test_a_cgroup_parent_is_warned_of() -> None:
    assert check_build_request(BuildRequest(cgroupparent="/x"))[0].startswith("cgroupparent was discarded")


@pytest.mark.parametrize(("text", "wanted"), [("1", True), ("true", True), ("0", False), ("yes", False), (None, False)])
def test_an_inline_cache(text: str | None, wanted: bool) -> None:
    assert wants_inline_cache(BuildRequest(buildargs={"BUILDKIT_INLINE_CACHE": text})) is wanted
