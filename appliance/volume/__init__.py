"""Volumes: directories of the host that machines share by virtiofs, disks for one machine at a time, or directories on NFS servers."""
