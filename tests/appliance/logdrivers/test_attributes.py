"""What `docker logs --details` shows."""

import time

import pytest

from appliance.diag.syslog import TAG_VALUES
from appliance.errors import InvalidParameter
from appliance.logdrivers.attributes import check_attributes, details_prefix, log_attributes, tag_values
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


def test_regular_expressions_select_names() -> None:
    """As moby's ExtraAttributes: expressions match anywhere in a name, and add to the lists."""
    options = {"labels": "size", "labels-regex": "^com\\.|two", "env": "B", "env-regex": "^A_"}
    record = record_with("json-file", options)
    record.config.labels = {"com.a": "1", "org.com.a": "2", "number-two": "3", "size": "4"}
    record.config.env = ["A_1=x", "AA_=y", "B=z", "A_2"]
    assert check_attributes(options) == []
    assert log_attributes(record) == {"com.a": "1", "number-two": "3", "size": "4", "A_1": "x", "B": "z"}


@pytest.mark.parametrize("name", ["labels-regex", "env-regex"])
@pytest.mark.parametrize("text", ["(", "(?=x)", "a{1000}{1000}"])
def test_malformed_expressions_are_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match="failed to initialize logging driver: error parsing regexp: `"):
        check_attributes({name: text})


def test_expressions_take_linear_time() -> None:
    record = record_with("json-file", {"labels-regex": "(a+)+$"})
    record.config.labels = {"a" * 50_000 + "b": ""}
    before = time.thread_time()
    assert log_attributes(record) == {}
    assert time.thread_time() - before < 0.5


def test_a_tag_has_the_fields_of_the_container() -> None:
    record = record_with("json-file", {"tag": "{{.Command}}|{{.ContainerName}}|{{.ContainerEntrypoint}}"})
    record.config.cmd = ["sh", "-c", "x"]
    assert log_attributes(record) == {"tag": "sh -c x|/name|sh"}
    assert set(tag_values(record)) == set(TAG_VALUES)


def test_the_prefix_is_a_sorted_query() -> None:
    assert details_prefix({"b": "x y", "a,b": "1=2"}) == b"a%2Cb=1%3D2,b=x+y "
    assert details_prefix({}) == b" "
