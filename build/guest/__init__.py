"""The guest image: kernel, initrd and a boot CD."""
