"""Every path, link and make target that a README names exists, and the runnable shell lines are shell."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.readmes import ROOT, Block, pages, runnable_blocks, tracked

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"`([^`\n]+)`")
# A path has an extension or ends in a slash: `Process/Wait` is a method, `linux/arm64` is a platform.
_PATH = re.compile(r"\.?(?:[\w.-]+/)*[\w-][\w.-]*\.(?:py|md|toml|txt|sh|proto|yaml|go)|(?:[\w.-]+/)+")
_MAKE = re.compile(r"(?:^ *|`)make ([a-z][a-z0-9-]*)", re.MULTILINE)
_PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
# Folders and files that vch makes on a user's machine; pages describe them, and the tree does not have them.
_MADE = {
    "machines",
    "containers",
    "layers",
    "volumes",
    "templates",
    "scratch",
    "vch",
    "downloads",
    "guest",
    "ova",
    "tools",
}


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _headings(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@_PAGES
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        found = (page.parent / target).resolve()
        assert found.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _headings(found), f"{page}: {target}{anchor}"


def _is_here(name: str, page: Path) -> bool:
    """Whether a path exists, seen from the page, from the root, or as the end of the path of a tracked file or folder."""
    wanted = "/" + name.removeprefix("./").rstrip("/")
    return (page.parent / name).exists() or any(f"/{known}".endswith(wanted) for known in tracked())


@_PAGES
def test_paths_in_code_exist(page: Path) -> None:
    missing = []
    for name in _CODE.findall(page.read_text()):
        first = name.partition("/")[0]
        # Upper case stands for a value: `containers/ID/`, `NAME.pem`.
        if (
            not _PATH.fullmatch(name)
            # The page on drivers calls its example `acme`.
            or "acme" in name
            or re.search(r"\b[A-Z]{2,}\b(?!\.md)", name)
            or (first in _MADE and name.endswith("/"))
        ):
            continue
        if not _is_here(name, page):
            missing.append(name)
    assert not missing, f"{page} names files that do not exist: {missing}"


@_PAGES
def test_make_targets_exist(page: Path) -> None:
    assert set(_MAKE.findall(page.read_text())) <= _targets()


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("block", runnable_blocks(), ids=lambda block: block.name)
def test_runnable_lines_are_shell(block: Block) -> None:
    assert subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False).returncode == 0
