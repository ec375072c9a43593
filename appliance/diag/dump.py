"""Every trio task with the place where it waits, as text."""

import trio


def dump_tasks() -> str:
    """Return the tree of tasks of this trio run, each with its innermost frames."""
    lines: list[str] = []
    root = trio.lowlevel.current_root_task()
    if root is not None:
        _add(root, 0, lines)
    return "\n".join(lines) + "\n"


def _add(task: trio.lowlevel.Task, depth: int, lines: list[str]) -> None:
    places = [f"{name.rpartition('/')[2]}:{line} {function}" for name, line, function in _stack(task)]
    lines.append(f"{'  ' * depth}{task.name}  {' < '.join(reversed(places[-3:]))}")
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            _add(child, depth + 1, lines)


def _stack(task: trio.lowlevel.Task) -> list[tuple[str, int, str]]:
    """(file, line, function) from the outermost coroutine to the innermost."""
    return [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in task.iter_await_frames()]
