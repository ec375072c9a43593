"""What a log says about its container: the fields of a tag, and the attributes that `docker logs --details` shows."""

import urllib.parse

from appliance.container.container_record import ContainerRecord
from appliance.diag.syslog import fill_tag
from appliance.errors import InvalidParameter


def tag_values(record: ContainerRecord) -> dict[str, str]:
    """The fields that a log tag may contain, as {{.Name}} (moby daemon/logger/loginfo.go)."""
    return {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageName": record.image,
        "ImageID": record.image_id[7:19],
        "ImageFullID": record.image_id,
        "DaemonName": "vchd",
    }


def log_attributes(record: ContainerRecord) -> dict[str, str]:
    """The labels and environment variables that the options `labels` and `env` name, and the `tag`.

    moby writes them into each line (Info.ExtraAttributes). They are the same for all lines of a container, so vchd stores none.
    """
    options = record.log_options
    labels = record.config.labels or {}
    environment = dict(text.split("=", 1) for text in record.config.env or () if "=" in text)
    found = {
        name: values[name]
        for option, values in (("labels", labels), ("env", environment))
        for name in options.get(option, "").split(",")
        if name and name in values
    }
    try:
        tag = fill_tag(options.get("tag", ""), tag_values(record))
    except InvalidParameter:
        # The driver's check has warned that the tag has no effect.
        tag = ""
    return found | ({"tag": tag} if tag else {})


def details_prefix(attributes: dict[str, str]) -> bytes:
    """What `docker logs --details` puts before each line (moby attrsByteSlice): sorted pairs, as in a query, and a blank."""
    pairs = (
        f"{urllib.parse.quote_plus(name)}={urllib.parse.quote_plus(attributes[name])}" for name in sorted(attributes)
    )
    return ",".join(pairs).encode() + b" "
