"""What `docker logs --details` shows."""

from appliance.logdrivers.attributes import details_prefix, log_attributes
from tests.appliance.logdrivers.records import record_with


def test_labels_variables_and_a_tag() -> None:
    record = record_with("json-file", {"labels": "color,none,size", "env": "A,B", "tag": "{{.ImageName}}/{{.ID}}"})
    record.config.labels = {"color": "red", "size": "", "other": "x"}
    record.config.env = ["A=1=2", "C=3", "B"]
    assert log_attributes(record) == {"color": "red", "size": "", "A": "1=2", "tag": "busybox/0123456789ab"}


def test_without_options_there_are_none() -> None:
    record = record_with("json-file", {})
    record.config.labels = {"": "x"}
    assert log_attributes(record) == {}
    assert log_attributes(record_with("json-file", {"tag": "{{.Nonsense}}"})) == {}


def test_the_prefix_is_a_sorted_query() -> None:
    assert details_prefix({"b": "x y", "a,b": "1=2"}) == b"a%2Cb=1%3D2,b=x+y "
    assert details_prefix({}) == b" "
