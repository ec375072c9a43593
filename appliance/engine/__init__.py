"""Use cases: containers, images, events. Knows no HTTP and no concrete hypervisor."""
