"""Reading property values: defaults, lists, secrets in problems."""

from appliance.provision.reader import Reader


def test_a_property_has_its_default() -> None:
    reader = Reader({"tenant": " prod "})
    assert (reader.text("tenant"), reader.text("vm-pool"), reader.text("datacenter")) == ("prod", "0", "")
    assert (reader.boolean("tls-verify"), reader.boolean("ssh")) == (True, False)


def test_lists_have_separators_of_their_own() -> None:
    networks = "name=a,portgroup=A;name=b,portgroup=B"
    reader = Reader({"ntp": "a.example, b.example,", "container-networks": networks})
    assert reader.checked_items("ntp") == ["a.example", "b.example"]
    assert reader.value("container-networks") == networks.split(";")
    assert reader.problems == []


def test_values_are_those_of_the_configuration_file() -> None:
    reader = Reader({"vm-memory": "512", "storage-quota": "1g", "labels": "", "bip": "10.0.0.1/24"})
    found = {key: reader.value(key) for key in ("vm-memory", "storage-quota", "labels", "bip", "vsphere-user")}
    assert found == {
        "vm-memory": 512,
        "storage-quota": "1g",
        "labels": None,
        "bip": "10.0.0.1/24",
        "vsphere-user": None,
    }


def test_a_problem_names_the_property_and_hides_a_secret() -> None:
    reader = Reader({"tls-key": "s3cret", "vm-memory": "1", "ssh": "perhaps"})
    assert reader.pem("tls-key") == ""
    assert reader.value("vm-memory") is None
    assert reader.boolean("ssh") is False
    assert reader.problems == [
        "tls-key: malformed",
        "vm-memory: '1' is not between 64 and 1048576 MiB",
        "ssh: 'perhaps' is not true or false",
    ]
