"""A text with every trio task and the place where it waits."""

import os.path

import trio

_SHOWN_FRAMES = 3
# The frames of trio's scheduler are the same for every task.
_SCHEDULER = os.path.join(os.path.dirname(trio.__file__), "_core")


def dump_tasks() -> str:
    """Return the tree of tasks of this trio run, each with its innermost frames, the innermost first."""
    lines: list[str] = []
    root = trio.lowlevel.current_root_task()
    if root is not None:
        _add(root, 0, lines)
    return "\n".join(lines) + "\n"


def _add(task: trio.lowlevel.Task, depth: int, lines: list[str]) -> None:
    places = [f"{name.rpartition('/')[2]}:{line} {function}" for name, line, function in _stack(task)]
    lines.append(f"{'  ' * depth}{task.name}  {' < '.join(reversed(places[-_SHOWN_FRAMES:]))}")
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            _add(child, depth + 1, lines)


def _stack(task: trio.lowlevel.Task) -> list[tuple[str, int, str]]:
    """(file, line, function) from the outermost coroutine to the innermost."""
    found = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in task.iter_await_frames()]
    return [frame for frame in found if not frame[0].startswith(_SCHEDULER)] or found
