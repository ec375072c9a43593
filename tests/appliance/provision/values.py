"""Values that the tests of provision share."""

from appliance.provision.files import Nic

# The properties without which an appliance does not start.
LEAST = {
    "vsphere": "vc.example",
    "vsphere-user": "vch",
    "vsphere-password": "very s3cret",
    "bridge-network": "Containers",
}
NICS = [Nic("ens192", "00:50:56:00:00:01"), Nic("ens224", "00:50:56:00:00:02")]
