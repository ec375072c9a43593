"""The vSphere driver, for a vCenter or a lone ESXi. Only this package uses pyVmomi. README.md says how its parts work together."""
