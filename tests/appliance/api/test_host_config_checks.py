"""CPUs of a request, against those that a machine of the hypervisor can have."""

import pytest

from appliance.api.host_config_checks import decode_host_config
from appliance.errors import InvalidParameter


def test_cpus_are_those_of_the_hypervisor() -> None:
    assert decode_host_config({"NanoCpus": 3 * 10**9, "CpusetCpus": "0-2"}, 3)[1] == []
    text = r"^Range of CPUs is from 0.01 to 3.00, as there are only 3 CPUs available$"
    with pytest.raises(InvalidParameter, match=text):
        decode_host_config({"NanoCpus": 3 * 10**9 + 1}, 3)
    with pytest.raises(InvalidParameter, match=r"requested 0-3, available: 0-2$"):
        decode_host_config({"CpusetCpus": "0-3"}, 3)
