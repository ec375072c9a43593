"""Copies of files with holes."""

import os


def copy_holes(source: int, target: int) -> None:
    """Copy between descriptors of one file system, holes as holes. Blocking."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: only a hole is left
        end = os.lseek(source, position, os.SEEK_HOLE)
        while position < end:
            position += os.copy_file_range(source, target, end - position, position, position)
