"""The page tells the story of a run: whole, self-contained, safe with what models say, complete as far as the run goes.

If one of these fails, draw a report with `danlu report --run DIR` and look at it.
"""

import dataclasses
import json
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from danlu.recipe import STAGES, Recipe
from danlu.report.config import ReportConfig
from danlu.report.page import CHAPTERS, write_report
from danlu.run.errors import UserError
from danlu.run.folder import resolved
from danlu.run.recipe_file import read_recipe

NAMES = [stage.name for stage in STAGES]
ATTACK = "<script>alert('x')</script><img src=http://evil.example/x.png>"
TURN = [{"role": "user", "content": ATTACK}]

FIGURES: dict[str, Any] = {
    "fetch": {"sources": {"novel": {"about": "A novel", "files": 3, "bytes": 4000}}},
    "corpus": {
        "documents_in": 10,
        "documents_kept": 7,
        "dropped": {"too_short": 2, ATTACK: 1},
        "steps": [{"step": "read", "documents": 10, "dropped": 0, "bytes": 900},
                  {"step": "quality", "documents": 7, "dropped": 3, "bytes": 800}],
        "sources": {"novel": {"kept": 7, "dropped": {"too_short": 2, ATTACK: 1}}},
        "train": {"documents": {"zh": 4, "en": 2}, "bytes": {"zh": 500, "en": 200}},
        "validation": {"documents": {"zh": 1}, "bytes": {"zh": 100}},
        "near_duplicates": {"clusters": 1, "largest": 2, "lowest_similarity": 0.9},
        "warnings": [f"all documents of `{ATTACK}` were dropped"],
    },
    "tokenizer": {"vocab_size": 300, "train_bytes": 700,
                  "validation": {"zh": {"documents": 1, "bytes": 100, "tokens": 40, "bytes_per_token": 2.5}}},
    "tokens": {"train": {"all": {"tokens": 280}, "zh": {"tokens": 200}}},
    "pretrain": {"parameters": 12345, "tokens": 560, "loss": 3.0, "bits_per_byte": 2.2, "tokens_per_s": 100.0},
    "conversations": {
        "counts": {"train": {"copy_one": {"zh": 5, "en": 6}}, "test": {"copy_one": {"zh": 1}}},
        "words": {"en": {"seen": 5, "unseen": 2, "examples_seen": [ATTACK], "examples_unseen": ["mu"]}},
        "examples": {"copy_one": [{"messages": [*TURN, {"role": "assistant", "content": ATTACK}]}]},
    },
    "sft": {"conversations": 11, "loss": 0.5, "targets": 99, "dropped": {ATTACK: 2}},
    "evaluate": {
        "bits_per_byte": {"before": {"all": 2.1, "zh": 2.2}, "after": {"all": 2.4, "zh": 2.5}},
        "byte_5gram_bits_per_byte": 2.5,
        "accuracy": {"before": {"copy_one": 0.0, "addition": 0.0}, "after": {"copy_one": 0.9, "addition": 0.1}},
        "unseen_accuracy": {"before": {"copy_one_unseen": 0.0}, "after": {"copy_one_unseen": 0.6}},
        "refusal": {"harmful": 0.97, "harmless": 0.02},
        "completions": [{"prompt": "今天", "continuation": ATTACK}],
        "samples": [{"skill": "copy_one", "messages": TURN, "reply": ATTACK, "expected": "a", "right": False},
                    {"skill": "copy_one", "messages": TURN, "reply": "mu", "expected": "mu", "right": True}],
    },
}  # fmt: skip


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_run(run: Path, stages: list[str], figures: dict[str, Any] = FIGURES) -> Path:
    """A run folder in which `stages` are complete."""
    for index, stage in enumerate(stages):
        table = dataclasses.replace(getattr(Recipe(), stage), out=run / stage)
        write(run / stage / "recipe.json", {"stage": stage, "fingerprint": "", "recipe": resolved(table)})
        write(run / stage / "stage.json", {"product": "x", "seconds": 10.0 + index, "peak_memory_mb": 100.0 + index})
        write(run / stage / "figures.json", figures[stage])
    if "corpus" in stages:
        example = {"id": "0", "source": "novel", "url": f"http://a.example/{ATTACK}", "excerpt": ATTACK}
        write(run / "corpus" / "examples.json", {"kept": {"zh": [example]}, "dropped": {"too_short": [example]}})
    for stage in {"pretrain", "sft"} & set(stages):
        make_metrics(run / stage)
    return run


def make_metrics(folder: Path) -> None:
    records = [{"step": step, "loss": 9 - step / 10, "learning_rate": 1e-3} for step in range(1, 41)]
    records[19] |= {"validation/all": 3.0, "validation/zh": 3.1}
    records[39] |= {"validation/all": 2.5, "validation/zh": 2.6, "loss": float("nan")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


class Page(HTMLParser):
    """What a browser would make of the page: tags, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.blocks: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self.blocks.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.blocks:
            self.blocks[-1] += data


def draw(run: Path, stages: list[str] = NAMES) -> Page:
    path = write_report(run, stages, ReportConfig(run=run))
    assert path == run / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_whole_run_is_told_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    page = draw(make_run(tmp_path, NAMES))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [chapter.stage for chapter in CHAPTERS] + ["cost", "again"]
    assert "10 in = 7 kept\n+ 3 dropped ✓" in page.text
    assert "16.0% below a byte 5-gram" in page.text
    assert "90.0%" in page.text, "the average accuracy leaves addition out"
    for missing in ("None", "nan", "Undefined"):
        assert missing not in page.text, f"a figure is shown as {missing}"


def test_it_needs_nothing_from_elsewhere_and_runs_no_script(tmp_path: Path) -> None:
    page = draw(make_run(tmp_path, NAMES))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "srcset", "data", "action", "xlink:href"):
            assert name not in attributes, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#"), (tag, attributes)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_text_of_pages_and_models_stays_text(tmp_path: Path) -> None:
    page = draw(make_run(tmp_path, NAMES))
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.text.count(ATTACK) >= 10, "reply, prompt, examples, words, completion and reasons are all shown as text"


def test_samples_carry_their_marks_and_the_answer_wanted(tmp_path: Path) -> None:
    page = draw(make_run(tmp_path, NAMES))
    assert "wanted: a" in page.text
    marks = [attributes["title"] for tag, attributes in page.tags if tag == "b" and "title" in attributes]
    assert marks == ["wrong", "right"]


@pytest.mark.parametrize("count", range(len(NAMES)))
def test_a_part_of_a_run_is_told_as_far_as_it_goes(tmp_path: Path, count: int) -> None:
    page = draw(make_run(tmp_path, NAMES[:count]))
    assert "Only part of the run is done." in page.text
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert sections == {chapter.stage for chapter in CHAPTERS} & set(NAMES[:count]) | {"cost", "again"}


@pytest.mark.parametrize("alone", NAMES)
def test_any_stage_alone_with_no_figures_at_all_is_no_error(tmp_path: Path, alone: str) -> None:
    draw(make_run(tmp_path, [alone], {alone: {}}))
    draw(make_run(tmp_path, [alone], FIGURES))


def test_a_run_that_is_not_there_is_the_users_mistake_and_no_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        draw(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_training_under_way_shows_its_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path, NAMES[:4])
    write(run / "pretrain" / "recipe.json", {"recipe": {}})
    make_metrics(run / "pretrain")
    page = draw(run)
    assert "under way" in page.text
    assert "Training loss" in page.text


def test_the_summary_holds_what_the_issue_names(tmp_path: Path) -> None:
    draw(make_run(tmp_path, NAMES))
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["corpus"]["documents_in"] == 10
    assert summary["corpus"]["documents_kept"] == 7
    assert summary["corpus"]["dropped"] == {"too_short": 2, ATTACK: 1}
    assert summary["pretrain"]["bits_per_byte"] == 2.1, "the evaluation's figure, over the whole validation split"
    assert summary["pretrain"]["byte_5gram_bits_per_byte"] == 2.5
    assert summary["sft"]["accuracy"]["after"] == {"copy_one": 0.9, "addition": 0.1}
    assert summary["sft"]["accuracy"]["before"] == {"copy_one": 0.0, "addition": 0.0}
    for index, stage in enumerate(NAMES):
        assert summary[stage]["seconds"] == 10.0 + index
        assert summary[stage]["peak_memory_mb"] == 100.0 + index


def test_the_recipe_on_the_page_can_be_run_again(tmp_path: Path) -> None:
    page = draw(make_run(tmp_path / "run", NAMES))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("\n".join(block for block in page.blocks if block.startswith("[")), encoding="utf-8")
    assert set(tomllib.loads(recipe.read_text())) == set(NAMES)
    assert read_recipe(recipe, Recipe).pretrain.model == Recipe().pretrain.model
    assert str(tmp_path) not in page.text, "folders of this machine do not belong in a recipe"


def test_drawn_again_the_page_is_the_same_and_no_half_page_stays_behind(tmp_path: Path) -> None:
    draw(make_run(tmp_path, NAMES))
    before = (tmp_path / "report.html").read_bytes()
    draw(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".*partial"))
