"""The pages of the tree, and the shell lines in them that are marked as runnable.

A block is marked by the line `<!-- runnable -->` before it. It runs with DOCKER_HOST set to a daemon that has the image busybox.
"""

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- runnable -->\n```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """Shell lines of a page; `name` is the page's path and the block's number in it."""

    name: str
    text: str


@functools.cache
def tracked() -> frozenset[str]:
    """The files that git tracks or would track, and their folders, relative to the root."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    folders = {str(parent) for file in files for parent in Path(file).parents}
    return frozenset((*files, *folders))


def pages() -> list[Path]:
    """Every page of Markdown in the tree."""
    return [ROOT / name for name in sorted(tracked()) if name.endswith(".md") and (ROOT / name).exists()]


def runnable_blocks() -> list[Block]:
    """All marked blocks of all pages."""
    return [
        Block(f"{page.relative_to(ROOT)}:{number}", text)
        for page in pages()
        for number, text in enumerate(_BLOCK.findall(page.read_text()), 1)
    ]
