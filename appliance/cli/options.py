"""The options of `vch create` and `vch configure`. Most come from the table of settings (`appliance/config`), with its help texts."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from appliance.config.rows import GROUPS, TLS, VSPHERE, with_default
from appliance.config.table import OPTIONS, PropertyOption

_BY_KEY = {found.property.key: found for found in OPTIONS}
# Properties whose text an option reads from a file.
_FROM_FILES = ("certificates", "private key")


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of `vch create`."""
    flag = parser.add_argument_group("Appliance").add_argument
    flag("-n", "--name", default="vch", help="Name of the appliance, its resource pool and its folder (default: vch)")
    flag("--tenant", help=f"{_help('tenant')} (default: the name)")
    flag("--ova", type=Path, required=True, help="The OVA file, as make ova builds it")
    flag("--endpoint-cpu", type=int, default=2, metavar="COUNT", help="CPUs of the appliance (default: 2)")
    flag(
        "--endpoint-memory",
        type=int,
        default=2048,
        metavar="MIB",
        help="Memory of the appliance in MiB (default: 2048)",
    )
    flag("--cpu", type=int, default=-1, metavar="MHZ", help="CPU limit of the resource pool (default: no limit)")
    flag("--memory", type=int, default=-1, metavar="MIB", help="Memory limit of the resource pool (default: no limit)")
    flag(
        "--public-network",
        default="",
        metavar="PORTGROUP",
        help="Portgroup of published ports and the default route; also of the API and of vSphere, unless the next two options are given",
    )
    flag("--client-network", default="", metavar="PORTGROUP", help="Portgroup of the API")
    flag("--management-network", default="", metavar="PORTGROUP", help="Portgroup of vCenter and the ESXi hosts")
    _add(parser, (found for found in OPTIONS if found.option.on != "by hand"))
    _add_identity(parser)
    flag = parser.add_argument_group("Procedure").add_argument
    flag("--ops-grant-perms", action="store_true", help="Give --ops-user a role with the privileges that vchd needs")
    flag("--dry-run", action="store_true", help="Check everything, change nothing")
    flag(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="How long to wait until the appliance serves its API (default: 600)",
    )


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that change settings of an appliance at any time: those of `vch configure`."""
    _add(parser, (found for found in OPTIONS if found.option.on == "create and configure"))
    _add_identity(parser)


def _help(key: str) -> str:
    return _BY_KEY[key].property.help


def _add(parser: argparse.ArgumentParser, options: Iterable[PropertyOption]) -> None:
    chosen = list(options)
    for group in GROUPS:
        if not any(found.setting.group == group for found in chosen):
            continue
        section = parser.add_argument_group(group)
        for found in chosen:
            if found.setting.group == group:
                _add_option(section, found)


def _add_option(section: "argparse._ArgumentGroup", found: PropertyOption) -> None:
    row = found.setting
    metavar = found.option.metavar or row.metavar
    help = with_default(found.property.help, found.property.default or "").replace("%", "%%")
    if found.property.content in _FROM_FILES:
        section.add_argument(*found.option.names, dest=found.dest, type=Path, metavar="FILE", help=f"{help} (PEM)")
        return
    is_list = row.kind == "list"
    section.add_argument(
        *found.option.names,
        dest=found.dest,
        action="append" if is_list else "store",
        default=[] if is_list else "",
        metavar=metavar or found.option.names[0].lstrip("-").upper().replace("-", "_"),
        help=help,
    )


def _add_identity(parser: argparse.ArgumentParser) -> None:
    """The options that decide which certificates and which vSphere account the appliance has."""
    flag = parser.add_argument_group(f"{TLS}: certificates of vch's own CA").add_argument
    flag(
        "--tls-cname",
        default="",
        metavar="NAME",
        help="Name by which clients reach the API, for the API's certificate (default: the address of the appliance)",
    )
    flag(
        "--cert-path",
        type=Path,
        metavar="FOLDER",
        help="Folder of certificates; a CA in the folder is used again (default: ./NAME)",
    )
    flag(
        "--no-tlsverify",
        action="store_true",
        help="DANGEROUS: do not verify clients; every client that reaches the API has root's rights on all containers",
    )
    flag = parser.add_argument_group(f"{VSPHERE}: account of the appliance").add_argument
    flag("--ops-user", default="", metavar="USER", help=f"{_help('vsphere-user')} (default: the account of --user)")
    flag(
        "--ops-password-file",
        type=Path,
        metavar="FILE",
        help="File with the password of --ops-user (default: $VCH_OPS_PASSWORD)",
    )
    flag(
        "--ops-extension",
        action="store_true",
        help="Log in as a vCenter extension, with a certificate that the appliance makes, instead of an account",
    )


def handed_on(options: argparse.Namespace) -> dict[str, str]:
    """The values of the properties whose options were given. Files are read; OSError or UnicodeDecodeError when one is not readable."""
    values = {}
    for found in OPTIONS:
        # `create` resolves its own options to names of the inventory; account, thumbprint and tenant have code of their own.
        given = getattr(options, found.dest, None)
        if not given or (found.option.on != "create and configure" and found.property.key != "vsphere-ca"):
            continue
        if found.property.content in _FROM_FILES:
            values[found.property.key] = Path(given).read_text()
        else:
            values[found.property.key] = found.property.separator.join(given) if isinstance(given, list) else str(given)
    return values


def file_options() -> list[PropertyOption]:
    """The options that name a file whose text becomes a property."""
    return [found for found in OPTIONS if found.property.content in _FROM_FILES]


def option_of(key: str) -> str:
    """The option that sets this property; "" when there is none."""
    return _BY_KEY[key].option.names[0] if key in _BY_KEY else ""


def words_of(key: str, value: str) -> list[str]:
    """The command line that sets this property to this value; empty when the property has no option."""
    found = _BY_KEY.get(key)
    if found is None:
        return []
    # The option of a list is repeated for each item.
    parts = value.split(found.property.separator) if found.setting.kind == "list" else [value]
    return [word for part in parts for word in (found.option.names[0], part)]
