"""The metrics file survives a kill and forgets what a resumed run will do again."""

import json
from pathlib import Path

import pytest

from danlu.run.metrics import MetricsLog, read_jsonl


def write(path: Path, steps: range, resume_step: int = 0) -> None:
    log = MetricsLog(path, resume_step)
    for step in steps:
        log.write({"step": step, "loss": 1 / step})
    log.close()


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    write(path, range(1, 4))
    assert read_jsonl(path) == [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_a_record_can_be_read_before_the_file_is_closed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl")
    log.write({"step": 1})
    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1}]
    log.close()


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.jsonl"
    write(path, range(1, 4))
    path.write_bytes(path.read_bytes()[:-cut])
    records = read_jsonl(path)
    assert [record["step"] for record in records][:2] == [1, 2]
    write(path, range(len(records) + 1, 5), resume_step=len(records))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_line_cut_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"step": 1}\n{"step": 2, "text": "你'.encode()[:-1])
    assert read_jsonl(path) == [{"step": 1}]


def test_a_separator_inside_a_text_does_not_end_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "text": "a\u2028b"}\n{"step": 2}\n', encoding="utf-8")
    assert [record["step"] for record in read_jsonl(path)] == [1, 2]


def test_a_resumed_run_writes_its_steps_once(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, range(1, 8))
    write(path, range(5, 10), resume_step=4)
    assert [record["step"] for record in read_jsonl(path)] == list(range(1, 10))


def test_a_run_from_the_start_forgets_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, range(1, 8))
    write(path, range(1, 3))
    assert [record["step"] for record in read_jsonl(path)] == [1, 2]
