"""Where a start gets its VM: admission, the pool, boot, and the configuration that the guest receives."""
