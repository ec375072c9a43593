"""Rules of this tree that no linter knows: `make lint` runs them. A finding is a line, `PATH:LINE: rule: what is wrong`.

    python -m build.checks                     check the tree; exit status 1 if a rule that must hold does not
    python -m build.checks --subject FILE      check the subject of a commit message (a commit-msg hook)

Each rule is a function that yields findings; a new rule is a function in `RULES`. Findings of the rules in `_REPORTED` are
printed, but do not fail.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("appliance", "tether", "build")

MAX_LINES = 400
MAX_ARGUMENTS = 7
MAX_SKIPS = 39
_SUBJECT = re.compile(r"[a-z][a-z0-9_./-]*(, [a-z][a-z0-9_./-]*)*: [a-z`_.\-/0-9A-Z].*[^.\s]")
_MAX_SUBJECT = 100

# Printed, and not failing: a new test need not know of the list.
_REPORTED: frozenset[str] = frozenset({"stale-line"})

# Modules that the tests of others cover: lines of `MODULE TEST`.
ELSEWHERE = "build/tested_elsewhere.txt"


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    text: str


def _sources(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def _nodes(path: Path, word: str) -> Iterator[ast.AST]:
    """The nodes of a file that has the word, which is searched first: parsing all files takes a second."""
    text = path.read_text()
    return ast.walk(ast.parse(text)) if word in text else iter(())


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def file_length() -> Iterator[Finding]:
    """A file of more than 400 lines is two files."""
    for path in _sources(*ROOMS):
        count = len(path.read_text().splitlines())
        if count > MAX_LINES:
            yield Finding(_name(path), MAX_LINES, f"{count} lines; at most {MAX_LINES}")


def init_arguments() -> Iterator[Finding]:
    """A constructor with more than 7 arguments wants a named dataclass."""
    for path in _sources(*ROOMS):
        for owner in _nodes(path, "def __init__"):
            if not isinstance(owner, ast.ClassDef):
                continue
            for function in owner.body:
                if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                    given = function.args
                    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
                    if count > MAX_ARGUMENTS:
                        text = f"{owner.name}.__init__ takes {count} arguments; at most {MAX_ARGUMENTS}"
                        yield Finding(_name(path), function.lineno, text)


def formatter_escapes() -> Iterator[Finding]:
    """`fmt: skip` and `fmt: off` are for tables, fewer than 40 in all."""
    escape = re.compile(r"#\s*fmt:\s*(?:skip|off)$")
    found = [
        (path, number)
        for path in _sources(*ROOMS, "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if escape.search(line)
    ]
    for path, number in found[MAX_SKIPS:]:
        yield Finding(_name(path), number, f"{len(found)} formatter escapes; at most {MAX_SKIPS}")


def untyped_dictionary() -> Iterator[Finding]:
    """Outside of the API no code uses an untyped dictionary: `dict[str, Any]` and its other spellings."""
    for path in _sources("appliance", "tether"):
        if _name(path).startswith("appliance/api/"):
            continue
        for node in _nodes(path, "Any"):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                owner, arguments = ast.unparse(node.value).rpartition(".")[2], node.slice.elts
                if owner in ("dict", "Mapping", "MutableMapping") and ast.unparse(arguments[-1]) in (
                    "Any",
                    "typing.Any",
                ):
                    yield Finding(_name(path), node.lineno, f"{ast.unparse(node)}; name its fields in a Struct")


def no_unit_test() -> Iterator[Finding]:
    """appliance/api/archive.py has tests/appliance/api/test_archive.py, or a line in build/tested_elsewhere.txt."""
    elsewhere = _tested_elsewhere()
    for path in _sources(*ROOMS):
        name = _name(path)
        expected = f"tests/{Path(name).with_name(f'test_{path.name}').as_posix()}"
        if path.name in ("__init__.py", "__main__.py") or (ROOT / expected).exists():
            continue
        if name not in elsewhere:
            yield Finding(name, 1, f"there is no {expected}")
        elif not (ROOT / elsewhere[name][1]).exists():
            yield Finding(ELSEWHERE, elsewhere[name][0], f"there is no {elsewhere[name][1]}")


def stale_line() -> Iterator[Finding]:
    """build/tested_elsewhere.txt lists only modules that exist and have no test of their own."""
    for name, (line, _) in _tested_elsewhere().items():
        own = f"tests/{Path(name).with_name(f'test_{Path(name).name}').as_posix()}"
        if not (ROOT / name).exists():
            yield Finding(ELSEWHERE, line, f"there is no {name}")
        elif (ROOT / own).exists():
            yield Finding(ELSEWHERE, line, f"{name} has {own}")


def _tested_elsewhere() -> dict[str, tuple[int, str]]:
    """The line and the test of each module that is listed."""
    lines = (ROOT / ELSEWHERE).read_text().splitlines()
    words = [(number, line.split()) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    return {module: (number, test) for number, (module, test) in words}


def import_circle() -> Iterator[Finding]:
    """No module imports itself by way of others."""
    import grimp

    graph = grimp.build_graph(
        "build", "appliance", "tether", "protos", cache_dir=None, exclude_type_checking_imports=True
    )
    ahead = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    for circle in _circles(ahead):
        path = ROOT / f"{circle[0].replace('.', '/')}.py"
        yield Finding(_name(path if path.exists() else path.with_suffix("") / "__init__.py"), 1, " <-> ".join(circle))


def _circles(ahead: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another, sorted (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(ahead[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(ahead):
        if module not in index:
            visit(module)
    return found


RULES: dict[str, Callable[[], Iterator[Finding]]] = {
    "file-length": file_length,
    "init-arguments": init_arguments,
    "formatter-escapes": formatter_escapes,
    "untyped-dictionary": untyped_dictionary,
    "no-unit-test": no_unit_test,
    "stale-line": stale_line,
    "import-circle": import_circle,
}


def subject_fault(message: str) -> str:
    """What is wrong with the subject of a commit message; empty if nothing is."""
    subject = message.partition("\n")[0]
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return ""
    if len(subject) > _MAX_SUBJECT:
        return f"the subject has {len(subject)} characters; at most {_MAX_SUBJECT}"
    if not _SUBJECT.fullmatch(subject):
        return f"{subject!r} is not `scope: imperative what changed`, as in `engine: release ports when a start fails`"
    return ""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--subject"]:
        fault = subject_fault(Path(arguments[1]).read_text())
        if fault:
            print(fault)
        return bool(fault)
    failed = False
    for rule, check in RULES.items():
        for finding in check():
            failed |= rule not in _REPORTED
            note = " (reported only)" if rule in _REPORTED else ""
            print(f"{finding.path}:{finding.line}: {rule}: {finding.text}{note}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
