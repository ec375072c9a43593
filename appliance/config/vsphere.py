"""The settings of vchd that say where vSphere is, and which objects there vchd uses. Each field is a row of the table of settings."""

from dataclasses import dataclass
from pathlib import Path

from appliance.config import rows
from appliance.config.parsers import check_port, check_subnet
from appliance.config.rows import Option, Property, setting
from appliance.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class VsphereConfig:
    """The vCenter or ESXi, and the objects there that vch uses. An empty name means the only object of its type."""

    vsphere: str = setting(
        "",
        rows.VSPHERE,
        "Address of the vCenter Server, or of the ESXi host when there is no vCenter",
        metavar="HOST[:PORT]",
        property=Property(label="vCenter or ESXi"),
    )
    vsphere_user: str = setting(
        "",
        rows.VSPHERE,
        "vSphere account of vchd",
        property=Property(label="User"),
        option=Option(names=("--ops-user",), on="by hand"),
    )
    vsphere_password_file: Path | None = setting(
        None,
        rows.VSPHERE,
        "File with the password of the account; a password in a flag would be visible to every user of the host",
        property=Property(
            label="Password",
            key="vsphere-password",
            help="Password of the account",
            secret=True,
            file="vsphere-password",
        ),
    )
    vsphere_token_file: Path | None = setting(
        None,
        rows.VSPHERE,
        "File with a SAML 2.0 bearer assertion to use instead of user and password; vchd reads the file at each login",
    )
    vsphere_extension: str = setting(
        "",
        rows.VSPHERE,
        "Log in as this vCenter extension, with a certificate that vchd makes and registers at its first start",
        metavar="KEY",
        property=Property(
            label="Login",
            key="vsphere-login",
            help="password, or extension: the appliance registers itself as an extension of the vCenter, with a certificate of "
            "its own, in the session of the ticket. An extension needs no user and no password",
            default="password",
            translated=False,
        ),
    )
    vsphere_ticket_file: Path | None = setting(
        None,
        rows.VSPHERE,
        "File with a ticket of SessionManager.AcquireCloneTicket, to register the extension",
        property=Property(
            label="Ticket",
            key="vsphere-ticket",
            help="Clone ticket of a session, which `vch create` provides; it expires soon",
            secret=True,
            once=True,
            file="vsphere-ticket",
        ),
    )
    vsphere_tunnel_port: int = setting(
        80,
        rows.VSPHERE,
        "vCenter port where extensions log in; 0: use the main API port",
        metavar="PORT",
        property=Property(label="Tunnel port", check=check_port),
        option=Option(names=("--tunnel-port",)),
    )
    thumbprint: str = setting(
        "",
        rows.VSPHERE,
        "SHA-1 or SHA-256 thumbprint of the server's certificate; without a thumbprint, a CA has to vouch for the certificate",
        property=Property(label="Thumbprint"),
        option=Option(names=("--thumbprint",), on="by hand"),
    )
    vsphere_ca: Path | None = setting(
        None,
        rows.VSPHERE,
        "File with the CAs of the server's certificate (default: the CAs of the system)",
        property=Property(
            label="CA",
            help="CAs of the server's certificate",
            content="certificates",
            file="vsphere-ca.pem",
        ),
        option=Option(names=("--target-ca",), on="by hand"),
    )
    tenant: str = setting(
        "vch",
        rows.VSPHERE,
        "Owner of the VMs and folders in vSphere; vchd finds its VMs again by this name",
        property=Property(label="Tenant"),
        option=Option(names=("--tenant",), on="by hand"),
    )
    datacenter: str = setting(
        "",
        rows.VSPHERE,
        "Datacenter; required when there is more than one",
        property=Property(label="Datacenter"),
        option=Option(names=("--datacenter",), on="create"),
    )
    compute_resource: str = setting(
        "",
        rows.VSPHERE,
        "Cluster or host; CLUSTER/POOL/POOL for a resource pool; required when there is more than one",
        property=Property(label="Compute resource"),
        option=Option(names=("--compute-resource", "-r"), on="create"),
    )
    vm_folder: str = setting(
        "",
        rows.VSPHERE,
        "Folder below the datacenter's VM folder, in which vchd makes the folder of the tenant",
        property=Property(label="VM folder"),
    )
    image_store: str = setting(
        "",
        rows.VSPHERE,
        "Datastore of images, VMs and volumes; required when there is more than one",
        property=Property(label="Image store"),
        option=Option(names=("--image-store", "-i"), on="create"),
    )
    bridge_network: str = setting(
        "",
        rows.VSPHERE,
        "Portgroup for containers, used by this appliance alone",
        property=Property(label="Bridge network"),
        option=Option(names=("--bridge-network", "-b"), on="create"),
    )
    bridge_interface: str = setting("", rows.VSPHERE, "Interface of this host on the bridge network's portgroup")
    vm_firmware: str = setting(
        "efi",
        rows.VSPHERE,
        "Firmware of the VMs: efi or bios",
        choices=("bios", "efi"),
        property=Property(label="VM firmware"),
        option=Option(names=("--vm-firmware",)),
    )
    vm_names: str = setting(
        "{name}-{id}",
        rows.VSPHERE,
        "Naming convention of the VMs: a text with {name}, {id} and {tenant}, which stand for the container's",
        metavar="CONVENTION",
        property=Property(label="VM names"),
        option=Option(names=("--container-name-convention", "--vm-names")),
    )
    vm_group: str = setting(
        "",
        rows.VSPHERE,
        "VM group of the cluster, for DRS rules; vchd adds every VM to the group, and makes the group if it is missing",
        metavar="NAME",
        property=Property(label="VM group"),
        option=Option(names=("--affinity-vm-group", "--vm-group")),
    )
    vspc_listen: str = setting(
        "0.0.0.0:2377",
        rows.VSPHERE,
        "Where vchd accepts the connections of the VMs' serial ports",
        metavar="ADDRESS:PORT",
    )
    vspc_address: str = setting(
        "",
        rows.VSPHERE,
        "Address of vchd to which ESXi hosts connect serial ports (default: the address that vchd has towards vSphere)",
    )
    vspc_allow: tuple[str, ...] = setting(
        (),
        rows.VSPHERE,
        "Subnet of ESXi hosts that may connect serial ports (default: every address)",
        metavar="CIDR",
        property=Property(label="Hosts of serial ports", check=check_subnet),
        option=Option(names=("--vspc-allow",)),
    )
    vspc_cert: Path | None = setting(None, rows.VSPHERE, "PEM certificate for serial ports by TLS (telnets)")
    vspc_key: Path | None = setting(None, rows.VSPHERE, "PEM key of --vspc-cert")
    quick_port: int = setting(
        2378,
        rows.VSPHERE,
        "Port on the bridge network to which guests connect by TCP, beside their serial ports",
        metavar="PORT",
    )


def required(settings: VsphereConfig, name: str) -> str:
    """A setting that has no default. InvalidParameter when it was not given."""
    value = getattr(settings, name)
    if not value:
        raise InvalidParameter(f"--hypervisor vsphere needs --{name.replace('_', '-')}")
    return str(value)
