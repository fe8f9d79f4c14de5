"""Imports run one way through the rooms, as the house is laid out; found by reading the source, not by running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "danlu"
ORDER = (
    "run",
    "tokenizer",
    "conversations",
    "model",
    "inference",
    "training",
    "evaluation",
    "serving",
    "report",
    "cli",
)
"""A room may import itself and the rooms before it."""
MAY_IMPORT = {room: {*ORDER[: index + 1]} for index, room in enumerate(ORDER)}
# The corpus never knows a model: benchmarks are read as files.
MAY_IMPORT["corpus"] = {"corpus", "run", "tokenizer"}
# Evaluation is held against the corpus's bytes, the conversations take their words from it; both read its files alone.
DOORS = {"cli", "commands", "recipe", "run_recipe"}
"""Files beside the rooms: the command line and the whole recipe, which know every room."""
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of ours, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import hides which room it is from"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "danlu" else [module]
        for name in names:
            if name.startswith("danlu."):
                yield node.lineno, name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_rooms_before_its_own(path: Path) -> None:
    room = room_of(path)
    if room in DOORS or path.parent == PACKAGE:
        return
    assert room in MAY_IMPORT, f"the room {room} has no place in the order of the house"
    for line, imported in imported_rooms(path):
        assert imported in MAY_IMPORT[room], f"{path}:{line}: {room} must not import {imported}"


def test_the_order_knows_every_room() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(MAY_IMPORT)
    assert {"run", "corpus", "tokenizer", "model", "training"} <= rooms


def test_one_file_at_most_knows_distribution() -> None:
    users = [path for path in FILES if "torch.distributed" in path.read_text(encoding="utf-8")]
    assert len(users) <= 1, f"torch.distributed is imported by {users}"
