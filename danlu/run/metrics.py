"""Metrics of a stage as JSON lines, one object a step; a resumed stage goes on where its checkpoint stands."""

import json
import os
from pathlib import Path
from typing import Any

from danlu.run.files import naming


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole records of a JSON-lines file; a last line cut by a kill is left out. Empty when there is no file."""
    if not path.exists():
        return []
    records = []
    # Bytes know line breaks alone, not the separators a text may hold; a cut may lie inside a character.
    for line in path.read_bytes().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class MetricsLog:
    """Appends records with a `step`; opening it forgets the records after `resume_step`."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        kept = [record for record in read_jsonl(path) if record["step"] <= resume_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.partial")
        with naming(path):
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(aside, path)
        self.path, self.stream = path, path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Add one record and hand it to the operating system at once."""
        with naming(self.path):
            self.stream.write(json.dumps(record) + "\n")
            self.stream.flush()

    def close(self) -> None:
        with naming(self.path):
            self.stream.close()
