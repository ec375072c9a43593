"""The instructions of a Dockerfile as the classic builder counts them, and where BuildKit reports each of them. Pure.

BuildKit names the vertex of an instruction `[STAGE INDEX/TOTAL] TEXT`. Only FROM of an image, ADD, COPY, RUN and WORKDIR have an index
(buildkit frontend/dockerfile/dockerfile2llb/convert.go: cmdTotal).
"""

import msgspec

from appliance.image.dockerfile import escape_token, logical_lines, split_instruction

_WITH_INDEX = ("ADD", "COPY", "RUN", "WORKDIR")
_SCRATCH = "scratch"
MAX_STEPS = 10_000
_MAX_TEXT = 4096


class Step(msgspec.Struct, frozen=True):
    """An instruction. `stage` counts from 0; -1 stands for ARG before the first FROM. `index`: BuildKit's, 0 without one."""

    stage: int
    stage_name: str
    index: int
    text: str


def steps_of(text: str, target: str = "") -> list[Step]:
    """The instructions up to the end of the stage `target`, of all stages if it is "".

    InvalidParameter for a text that BuildKit does not take either; [] for one that is too long to count.
    """
    steps: list[Step] = []
    names: list[str] = []
    index, name = 0, ""
    escape = escape_token(text)
    for line in logical_lines(text, escape):
        word, _, rest = split_instruction(line.text, escape)
        word = word.upper()
        if word == "FROM":
            if names and target and target.lower() in (name.lower(), str(len(names) - 1)):
                break
            base, name = _base_and_name(rest)
            # A stage on top of an earlier stage, or of nothing, has no vertex for FROM.
            index = int(base.lower() not in (_SCRATCH, *(known.lower() for known in names if known)))
            names.append(name)
            name = name or f"stage-{len(names) - 1}"
            own = index
        elif names and word in _WITH_INDEX:
            index += 1
            own = index
        else:
            own = 0
        steps.append(Step(len(names) - 1, name, own, line.text[:_MAX_TEXT]))
        if len(steps) > MAX_STEPS:
            return []
    return steps


def _base_and_name(rest: str) -> tuple[str, str]:
    words = rest.split()
    name = words[2] if len(words) == 3 and words[1].upper() == "AS" else ""
    return (words[0] if words else ""), name
