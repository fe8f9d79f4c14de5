"""The page tells the story of a run: whole, self-contained, safe with what models say, complete as far as the run goes.

If one of these fails, draw a report with `danlu report --run DIR` and look at it.
"""

import json
import tomllib
from pathlib import Path

import pytest
from made_up_run import ATTACK, FIGURES, NAMES, draw, make_metrics, make_run, write

from danlu.recipe import Recipe
from danlu.report.page import CHAPTERS
from danlu.run.errors import UserError
from danlu.run.recipe_file import read_recipe


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


@pytest.mark.parametrize("count", range(len(NAMES) - 1))  # The benchmarks, the last, are no part that lacks.
def test_a_part_of_a_run_is_told_as_far_as_it_goes(tmp_path: Path, count: int) -> None:
    page = draw(make_run(tmp_path, NAMES[:count]))
    assert "Only part of the run is done." in page.text
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    told = {chapter.stage for chapter in CHAPTERS if set(chapter.stages) & set(NAMES[:count])}
    assert sections == told | {"cost", "again"}


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


def test_benchmarks_stand_beside_published_scores_with_what_was_left_out(tmp_path: Path) -> None:
    text = draw(make_run(tmp_path, NAMES)).text
    for shown in ("43.2%", "± 1.2%", "58.2%", "2: 30", "7 of 90 questions too long", "25.0% of the replies"):
        assert shown in text, shown


def test_a_run_without_benchmarks_does_not_miss_them(tmp_path: Path) -> None:
    text = draw(make_run(tmp_path, [name for name in NAMES if name != "benchmarks"])).text
    assert "Benchmarks" not in text
