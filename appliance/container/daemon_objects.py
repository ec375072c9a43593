"""Containers, volumes and networks that the daemon makes for itself. Pure.

Their records have a `role`, and the label `vch.role` shows it. Lists, counts, prunes and events leave them out; a list shows them when its
filter `label` names `vch.role`. Clients cannot make objects with that label.
"""

from collections.abc import Iterable

from appliance.errors import InvalidParameter

ROLE_LABEL = "vch.role"
# The role of the machine that builds images, of its cache and of its network.
BUILDER = "builder"


def check_not_reserved(labels: Iterable[str]) -> None:
    """InvalidParameter when the names of the labels of a client's request include `vch.role`."""
    if ROLE_LABEL in labels:
        raise InvalidParameter(f"label {ROLE_LABEL} is reserved")


def asks_for_daemon_objects(wanted_labels: Iterable[str]) -> bool:
    """Whether the values of a filter `label`, NAME or NAME=VALUE, ask for the daemon's own objects."""
    return any(text.partition("=")[0] == ROLE_LABEL for text in wanted_labels)
