"""What a log says about its container: the fields of a tag, and the attributes that `docker logs --details` shows."""

import platform
import urllib.parse

from appliance.container.container_record import ContainerRecord
from appliance.container.expressions import compile_expression, search_names
from appliance.diag.syslog import TAG_VALUES, fill_tag
from appliance.errors import InvalidParameter
from appliance.logdrivers.driver import Options

# The options that select attributes.
ATTRIBUTES = frozenset(("labels", "labels-regex", "env", "env-regex", "tag"))


def tag_values(record: ContainerRecord) -> dict[str, str]:
    """The fields that a log tag may contain, as {{.Name}} (moby daemon/logger/loginfo.go)."""
    command = [*(record.config.entrypoint or ()), *(record.config.cmd or ())]
    return {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageName": record.image,
        "ImageID": record.image_id[7:19],
        "ImageFullID": record.image_id,
        "DaemonName": "vchd",
        "Command": " ".join(command),
        "Hostname": platform.node(),
        "ContainerID": record.id,
        "ContainerName": f"/{record.name}",
        "ContainerImageID": record.image_id,
        "ContainerImageName": record.image,
        "ContainerEntrypoint": "".join(command[:1]),
    }


def check_attributes(options: Options) -> list[str]:
    """Check the options in ATTRIBUTES, and return warnings. InvalidParameter for a malformed regular expression."""
    for name in ("labels-regex", "env-regex"):
        if options.get(name) and compile_expression(options[name]) is None:
            # moby's start fails then.
            raise InvalidParameter(f"failed to initialize logging driver: error parsing regexp: `{options[name]}`")
    try:
        fill_tag(options.get("tag", ""), dict.fromkeys(TAG_VALUES, ""))
    except InvalidParameter as error:
        return [f"log option tag was discarded: {error}"]
    return []


def log_attributes(record: ContainerRecord) -> dict[str, str]:
    """The labels and environment variables that the options in ATTRIBUTES select, and the tag. It may take seconds: call it in a thread.

    moby writes them into each line (Info.ExtraAttributes). They are the same for all lines of a container, so vchd stores none.
    """
    options = record.log_options
    labels = record.config.labels or {}
    environment = dict(text.split("=", 1) for text in record.config.env or () if "=" in text)
    found: dict[str, str] = {}
    for option, values in (("labels", labels), ("env", environment)):
        found |= {name: values[name] for name in options.get(option, "").split(",") if name and name in values}
        if expression := options.get(f"{option}-regex"):
            found |= {name: values[name] for name in search_names([compile_expression(expression)], set(values))}
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
