"""vSphere: a vCenter or a lone ESXi runs the machines. The only home of pyVmomi."""
