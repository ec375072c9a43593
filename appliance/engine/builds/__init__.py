"""Builds: `docker build` by a buildkitd in a machine of its own, whose results the image store takes over.

`contracts` is what the parts of this room know of one another.
"""
