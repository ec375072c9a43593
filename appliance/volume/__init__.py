"""Volumes: directories of the host that machines share by virtiofs, or disks of their own for one machine at a time."""
