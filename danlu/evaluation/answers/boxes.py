r"""The boxes that a solution puts its answer in: \boxed{…}, \fbox{…} and the old `\boxed 5`.

In: a solution. Out: what stands in its boxes, braces balanced. A \boxed without anything in it is no box.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

BOX = re.compile(r"\\(?:f|o)?box(?:ed)?(?![A-Za-z])")
UNBRACED = re.compile(r"[ \t]+(\S[^\n$]*?|\\\$\S*)(?=\$|\\\)|\\\]|\n|$)")
JOINT = re.compile(
    r"(?:\\?[$,;]|\s|\\[()\[\]!;:]|\\text(?:bf|rm)?\{[^{}]*\}|\b(?:and|or)\b|[和或及与、，]|[a-zA-Z]{1,2}\s*=)*"
)
"""What may stand between two boxes that together are one answer: "$x=\\boxed{1}$ and $x=\\boxed{2}$"."""


MOST_BOXES, LONGEST_BOX = 50, 4_000
"""How many of the last boxes are looked at, and how far the end of one is sought. Our choice: far more than any
solution has, and little enough for a reply of nothing but boxes."""

MOST_NESTED = 5
"""Boxes in boxes that are opened. Our choice: two is what occurs."""


@dataclass(frozen=True)
class Box:
    """A box: what is in it, and where it begins and ends in the text."""

    content: str
    start: int
    end: int


def boxes(text: str) -> Iterator[Box]:
    """The outermost boxes, in order. An unclosed one reaches to the end of its line."""
    end = 0
    for found in list(BOX.finditer(text))[-MOST_BOXES:]:
        if found.start() < end:
            continue
        box = _braced(text, found) or _unbraced(text, found)
        if box is not None and box.content.strip():
            end = box.end
            yield box


def last_box(text: str) -> str | None:
    """What stands in the last box; of a box in a box, in the inner one where there is nothing else."""
    last = None
    for last in boxes(text):  # noqa: B007
        pass
    return None if last is None else unboxed(last.content)


def joined_boxes(text: str) -> str | None:
    """What stands in the boxes at the end that together are one answer, as a list; None where that is one box."""
    every = list(boxes(text))
    joined = every[-1:]
    for box in reversed(every[:-1]):
        between = text[box.end : joined[0].start]
        if len(between) > 60 or not JOINT.fullmatch(between):
            break
        joined.insert(0, box)
    contents = list(dict.fromkeys(unboxed(box.content) for box in joined))
    return ", ".join(contents) if len(contents) > 1 else None


def unboxed(content: str) -> str:
    """The content with the boxes in it opened."""
    for _ in range(MOST_NESTED):
        inner = next(boxes(content), None)
        if inner is None:
            break
        content = content[: inner.start] + inner.content + content[inner.end :]
    return content.strip()


def matching_brace(text: str, opening: int) -> int | None:
    """Where the brace that opens at `opening` closes; an escaped brace is none."""
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening, opening + LONGEST_BOX):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    return None


def _braced(text: str, found: re.Match[str]) -> Box | None:
    opening = re.compile(r"\s*\{").match(text, found.end())
    if opening is None:
        return None
    closing = matching_brace(text, opening.end() - 1)
    if closing is None:
        end = text.find("\n", opening.end())
        end = len(text) if end < 0 else end
        return Box(text[opening.end() : end].rstrip(" $."), found.start(), end)
    return Box(text[opening.end() : closing], found.start(), closing + 1)


def _unbraced(text: str, found: re.Match[str]) -> Box | None:
    r"""`\boxed 5`: in mathematics, or a number; elsewhere in prose the word is only mentioned."""
    content = UNBRACED.match(text, found.end())
    line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
    mathematics = line.count("$") % 2 == 1 or line.rfind("\\(") > line.rfind("\\)")
    if content is None or not (mathematics or re.fullmatch(r"\\?\W?\d\S*|[A-Z]", content[1].rstrip(" ."))):
        return None
    return Box(content[1].rstrip(" ."), found.start(), content.end())
