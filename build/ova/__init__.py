"""The appliance as an OVA: a root from Debian's packages, a disk that boots by BIOS and UEFI, a descriptor, one tar. `make ova`."""
