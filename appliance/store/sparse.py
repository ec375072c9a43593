"""Copies sparse files."""

import os


def copy_holes(source: int, target: int) -> None:
    """Copy a file between two descriptors on the same file system and keep its holes. Blocking. OSError."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: the rest is a hole
        end = os.lseek(source, position, os.SEEK_HOLE)
        while position < end:
            position += os.copy_file_range(source, target, end - position, position, position)
