"""What a row of the table of settings says. The rows are the fields of `model.py`, and `appliance.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, TypeVar, get_type_hints

from appliance.errors import InvalidParameter

T = TypeVar("T")
# How a setting is given on the command line and in JSON:
#   text, number   one value
#   path           a file or folder
#   list           a flag that may be repeated; a JSON list
#   on             a flag that turns the setting on, or off with =false, as dockerd's; a JSON boolean
#   on|off         a flag with the value on or off; the same words, or a boolean, in JSON
Kind = Literal["text", "number", "path", "list", "on", "on|off"]
Check = Callable[[str], object]

# The groups of settings, and their order in `vchd --help` and `vch create --help`; then their order in the OVF descriptor.
APPLIANCE_NETWORK = "Appliance network"
VSPHERE = "vSphere"
DAEMON = "Daemon"
MACHINES = "Virtual machines"
BUILDER = "Image builder"
NETWORKS = "Container networks"
STORAGE = "Storage"
REGISTRIES = "Registries"
LOGGING = "Logging"
TLS = "TLS"
ACCESS = "Appliance access"
GROUPS = (DAEMON, MACHINES, BUILDER, NETWORKS, STORAGE, REGISTRIES, LOGGING, TLS, VSPHERE, APPLIANCE_NETWORK, ACCESS)
# An appliance cannot start without the first two of these.
PROPERTY_GROUPS = (
    APPLIANCE_NETWORK,
    VSPHERE,
    MACHINES,
    BUILDER,
    NETWORKS,
    STORAGE,
    REGISTRIES,
    TLS,
    LOGGING,
    DAEMON,
    ACCESS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """The OVF property of a setting. What a row leaves out comes from the setting.

    `key`, `category`, `label`, `description`, `default` and `type` are those of the OVF descriptor (DSP0243, 9.5). The description is made
    of `help`, which `vch create --help` shows, too.
    """

    label: str
    key: str = ""
    help: str = ""
    default: str | None = None
    category: str = ""
    description: str = ""
    type: Literal["string", "boolean"] = "string"
    # What the text holds. PEM comes as PEM or as base64 of PEM.
    content: Literal["text", "certificates", "private key", "public key"] = "text"
    # A check that is stricter than the flag's.
    check: Check | None = None
    # What separates the values of a list in the one text of the property.
    separator: str = ","
    # Secrets are never shown. `vch` removes a secret from the VM's properties after the boot; the appliance keeps it, unless `once`.
    secret: bool = False
    once: bool = False
    # The appliance writes the text to this file (below /run/appliance), and the setting is the path of the file.
    file: str = ""
    # False: `appliance/provision` translates the property by code of its own, because it depends on other properties.
    translated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The option of `vch create` that sets the property; `names` has the name to show first.

    `on`: create and configure have the option; only create has it; or its command declares it by hand, since it means more there.
    """

    names: tuple[str, ...]
    on: Literal["create and configure", "create", "by hand"] = "create and configure"
    metavar: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row: one setting of vchd, or of the appliance around vchd."""

    name: str
    group: str
    help: str
    kind: Kind = "text"
    default: object = ""
    # The flags of vchd, and the key in its configuration file, below `section` if there is one. Settings of the appliance have neither.
    flags: tuple[str, ...] = ()
    key: str = ""
    section: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    # What turns the text into the value; `check` only looks at the text. Both raise InvalidParameter for a malformed text.
    parse: Callable[[str], object] = str
    check: Check | None = None
    # Turns a JSON object into the list that the setting is; the setting has two forms in the configuration file.
    from_object: Callable[[Mapping[str, object]], list[str]] | None = None
    property: Property | None = None
    option: Option | None = None

    def value_of(self, text: str) -> object:
        """The value of a text (of one item, for a list). InvalidParameter when the text is malformed."""
        if self.choices and text not in self.choices:
            raise InvalidParameter(f"'{text}' is not one of {', '.join(self.choices)}")
        if self.check is not None:
            self.check(text)
        return self.parse(text)

    def help_with_default(self) -> str:
        """The help text of the flag."""
        shown = str(self.default) if isinstance(self.default, Path) else shown_default(self.default)
        return with_default(self.help, shown)


def with_default(help: str, default: str) -> str:
    """The help text with its default, unless the text explains the default itself, or there is none."""
    return help if not default or "(default: " in help else f"{help} (default: {default})"


def shown_default(default: object) -> str:
    """The text of a default, for the help and the OVF descriptor; "" for a default that needs no words."""
    return str(default) if default and isinstance(default, str | int) and not isinstance(default, bool) else ""


def setting(
    default: T,
    group: str,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    key: str = "",
    section: str = "",
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], object] | None = None,
    check: Check | None = None,
    from_object: Callable[[Mapping[str, object]], list[str]] | None = None,
    property: Property | None = None,
    option: Option | None = None,
    factory: Callable[[], T] | None = None,
) -> T:
    """A field of `Config` that is a row of the table; to mypy it is the field's default value.

    The flag (`--vm-memory`) and the key (`vm-memory`) come from the field's name, unless they are given. `factory` makes the default
    when a `Config` is made, rather than `default`.
    """
    row = Setting(
        name="",
        group=group,
        help=help,
        default=default,
        flags=flags,
        key=key,
        section=section,
        metavar=metavar,
        choices=choices,
        parse=parse or str,
        check=check,
        from_object=from_object,
        property=property,
        option=option,
    )
    if factory is not None:
        return field(default_factory=factory, metadata={"setting": row})
    return field(default=default, metadata={"setting": row})


def rows_of(model: type) -> tuple[Setting, ...]:
    """The rows that the fields of this dataclass hold, completed by the names and types of the fields."""
    types = get_type_hints(model)
    return tuple(
        completed(_typed(replace(entry.metadata["setting"], name=entry.name), types[entry.name]))
        for entry in fields(model)
        if "setting" in entry.metadata
    )


def _typed(row: Setting, annotation: object) -> Setting:
    dashed = row.name.replace("_", "-")
    row = replace(row, flags=row.flags or (f"--{dashed}",), key=row.key or dashed)
    if annotation in (bool, bool | None):
        return replace(row, kind="on|off", parse=_on_or_off) if row.default else replace(row, kind="on", parse=_boolean)
    if annotation in (Path, Path | None):
        return replace(row, kind="path", parse=Path)
    if annotation in (int, int | None):
        return replace(row, kind="number", parse=_number if row.parse is str else row.parse)
    return replace(row, kind="list" if annotation == tuple[str, ...] else "text")


def completed(row: Setting) -> Setting:
    """The row, with its property completed: key, category, description, default."""
    found = row.property
    if found is None:
        return row
    # The rows of the appliance alone are named like their properties.
    key = found.key or row.key or row.name
    default = shown_default(row.default) if found.default is None else found.default
    help = found.help or row.help
    description = help
    if row.kind == "list":
        description += f". Separate the values by {'semicolons' if found.separator == ';' else 'commas'}"
    if found.content in ("certificates", "private key"):
        description += ": PEM, or base64 of PEM"
    return replace(
        row,
        property=replace(found, key=key, category=row.group, help=help, description=f"{description}.", default=default),
    )


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidParameter(f"'{text}' is not a number") from error


def _boolean(text: str) -> bool:
    """As Go's strconv.ParseBool, for the flags of dockerd."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f"'{text}' is not true or false")


def _on_or_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise InvalidParameter(f"'{text}' is not on or off")
    return text == "on"
