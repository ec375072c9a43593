"""The appliance as an OVA (`make ova`): root file system, bootable disk, OVF descriptor, and the tar of all."""
