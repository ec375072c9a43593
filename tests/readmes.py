"""The pages of the tree, and the shell lines in them that are marked as runnable.

A block is marked by the line `<!-- runnable -->` before it. It runs with DOCKER_HOST set to a daemon that has the image busybox.
"""

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


def pages() -> list[Path]:
    """Every page of Markdown that git tracks, or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [path for path in (ROOT / name for name in sorted(listed)) if path.exists()]


def runnable_blocks() -> list[Block]:
    """All marked blocks of all pages."""
    return [
        Block(f"{page.relative_to(ROOT)}:{number}", text)
        for page in pages()
        for number, text in enumerate(_BLOCK.findall(page.read_text()), 1)
    ]
