"""Use cases: containers, networks, volumes, transfers of images. It knows no HTTP and no concrete hypervisor.

README.md follows a container from `docker run` to its removal, and a start call by call.
"""
