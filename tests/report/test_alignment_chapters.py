"""The chapters on comparisons, reward model and PPO: what the stages found out stands on the page, nothing breaks it.

If one of these fails, draw a report with `danlu report --run DIR` and look at its chapters 7 to 9.
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_up_run import ATTACK, FIGURES, NAMES, draw, make_run, write, write_lines

from danlu.report.alignment import around_half, first_and_last, turns_of
from danlu.report.labels import STAGES
from danlu.report.rewards import reward_models

BEFORE_ALIGNMENT = [name for name in NAMES if name not in ("responses", "comparisons", "pmp", "reward", "ppo")]


@pytest.fixture
def text(tmp_path: Path) -> str:
    """The words of a whole run's page, blanks made one."""
    return one_line(draw(make_run(tmp_path, NAMES)).text)


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def chapter(text: str, number: int) -> str:
    """The part of the page from one chapter's heading to the next one's."""
    headings = ("7Comparisons", "8Reward model", "9PPO", "10Evaluation")
    start, end = (text.index(headings[number - 7 + further]) for further in (0, 1))
    return text[start:end]


def shows(text: str, *passages: str) -> None:
    for passage in passages:
        assert passage in text, f"`{passage}` is not on the page"


def changed(stage: str, **values: Any) -> dict[str, Any]:
    figures = copy.deepcopy(FIGURES)
    figures[stage].update(values)
    return figures


def test_the_head_of_the_page_has_reward_accuracy_and_win_rate_at_its_kl(text: str) -> None:
    head = text[: text.index("1Raw material")]
    shows(head, "90.0% of held-out comparisons judged right; 55.0% by length alone, 61.0% by words alone")
    shows(head, "56.1% PPO over fine-tuning, at a KL of 3.87 nats (95% interval 54.1–58.1)")
    shows(head, "90.0% right on average over 1 skills after fine-tuning (0.0% before, 95.0% after PPO)")


def test_comparisons_say_where_the_responses_came_from_and_what_they_are_worth(text: str) -> None:
    told = chapter(text, 7)
    shows(text, "765 more are kept from fine-tuning")
    shows(told, "1,234 prompts answered", "4,936 responses of the chat model", "987 prompts left for PPO")
    shows(told, "Copy one word 复述一个词 100 70.0% 20.0% 10.0%", "All 全部 100 70.0% 20.0% 10.0%")


def test_comparisons_are_counted_by_file_source_and_language(text: str) -> None:
    told = chapter(text, 7)
    shows(told, "Rejected reply Pretraining 偏好预训练 Fine-tuning 奖励微调 Test 测试")
    shows(told, "The model's own mistake 模型自己的错误 7 2", "Chinese 中文 30 3", "English 英文 10 7 2")
    shows(told, "All 全部 40 10 2", "4 (10.0%) are turned round on purpose", "52 conversations held back")
    shows(told, "95.0% 3.0% 2.0%", "10.7 / 5.7")


def test_a_pair_is_shown_with_both_replies(text: str) -> None:
    shows(chapter(text, 7), f"user{ATTACK}", f"chosen{ATTACK} ✓", "rejectedmo ✗")


def test_both_reward_models_stand_beside_the_baselines_and_the_one_before(text: str) -> None:
    told = chapter(text, 8)
    shows(told, "After preference pretraining 偏好预训练后, 4,000 pairs", "After fine-tuning 微调后, 4,000 pairs")
    shows(told, "Length alone 只看长度 55.0% 53.0–57.0", "Words alone 只看用词 61.0% 59.0–63.0")
    shows(told, "Before this stage 本阶段之前 81.0% 79.0–83.0", "Reward model 奖励模型 90.0% 88.0–92.0 85.0% 83.0–87.0")
    assert told.count("Before this stage") == 1, "the pretrained model has nothing before it"
    shows(told, f"2 ({ATTACK}), 3 (a prompt of the test).", f"Left out of the test: 5 ({ATTACK}).")


def test_the_reward_model_is_told_by_source_and_skill_and_unseen_words_apart(text: str) -> None:
    told = chapter(text, 8)
    shows(told, "The model's own mistake 模型自己的错误 100 70.0% 68.0–72.0 80.0% 78.0–82.0 55.0% 61.0%")
    shows(told, "Copy one word 复述一个词 100 81.0% 79.0–83.0 91.0% 89.0–93.0")
    shows(told[told.index("does it read the prompt") :], "Copy one word 复述一个词 100 74.0% 72.0–76.0 84.0% 82.0–86.0")
    shows(told, "Right as often as it is sure?", "0.069 after preference pretraining, 0.069 after fine-tuning.")
    shows(told, "Loss, preference pretraining", "Accuracy in training, fine-tuning")


def test_ppo_shows_its_curves_with_the_frozen_steps_shaded(tmp_path: Path) -> None:
    page = draw(make_run(tmp_path, NAMES))
    told = chapter(one_line(page.text), 9)
    for name in ("Reward of a response", "KL from the chat model", "Entropy", "Tokens of a response", "Clipped, policy",
                 "Clipped, value", "Explained variance", "Pretraining loss"):  # fmt: skip
        shows(told, name)
    shows(told, "In the first 10 steps (shaded)")
    shades = [attributes["d"] for tag, attributes in page.tags if attributes.get("class") == "shade"]
    # Curves of the policy begin after the frozen steps.
    assert shades == ["M0 0H23.08V100H0Z"] * 8, "steps 1 to 10 of 40"


def test_explained_variance_far_below_zero_does_not_flatten_its_curve(tmp_path: Path) -> None:
    draw(make_run(tmp_path, NAMES))
    assert "-900" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_win_rate_has_its_interval_and_kl_by_split_and_skill(text: str) -> None:
    told = chapter(text, 9)
    shows(told, "56.1% won (95 percent interval 54.1–58.1) at a KL of 3.87 nats", "answer 2,400 prompts")
    shows(told, "Unseen words 未见过的词 60.0% 58.0–62.0", "Copy one word 复述一个词 57.1% 55.1–59.1")
    shows(told, "words never seen 48.0% 46.0–50.0", "31,705 prompts 提示")


def test_accuracy_and_bits_per_byte_stand_before_and_after_ppo(text: str) -> None:
    told = chapter(text, 9)
    shows(told, "all prompts, with chance 81.2% 89.4%", "mean over skills 90.0% 95.0%", "60.0% 70.0%")
    shows(told, "lower is better 2.400 2.300", "Harmful declined 拒绝有害 97.0% 98.0%")
    evaluation = text[text.index("10Evaluation") :]
    shows(evaluation, "Copy one word 复述一个词 0% 90% 95%", "All 全部 2.100 2.400 2.300")


def test_responses_of_the_first_and_last_interval_stand_side_by_side(text: str) -> None:
    told = chapter(text, 9)
    shows(told, f"Step 1 before the policy learns user{ATTACK}", f"{ATTACK} of 1 reward 0.12, KL 0.25")
    shows(told, "Step 31", f"{ATTACK} of 31 reward 3.88")
    assert "of 11" not in told


def test_a_run_that_ended_early_says_so_and_why(tmp_path: Path) -> None:
    figures = changed("ppo", stopped=f"KL 31.0 above max_kl 30 {ATTACK}", steps=39)
    text = one_line(draw(make_run(tmp_path, NAMES, figures)).text)
    shows(text, f"ended early, after 40 of 40 steps: KL 31.0 above max_kl 30 {ATTACK}.", "PPO ended early.")


def test_ppo_keeps_its_own_number_of_prompts_in_the_summary(tmp_path: Path) -> None:
    draw(make_run(tmp_path, NAMES))
    ppo = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["ppo"]
    assert (ppo["prompts"], ppo["win_rate_prompts"]) == (31705, 2400)
    assert ppo["bits_per_byte"] == {"before": 2.4, "after": 2.3}
    assert ppo["win_rate"]["value"] == 0.561


def test_a_run_without_alignment_has_a_page_without_it(tmp_path: Path) -> None:
    figures = copy.deepcopy(FIGURES)
    del figures["evaluate"]["aligned"]
    page = draw(make_run(tmp_path, BEFORE_ALIGNMENT, figures), BEFORE_ALIGNMENT)
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert not sections & {"comparisons", "reward", "ppo"}
    for word in ("PPO", "Win rate", "Only part of the run is done"):
        assert word not in page.text
    shows(one_line(page.text), "Copy one word 复述一个词 0% 90%")


@pytest.mark.parametrize("missing", ["responses", "comparisons", "pmp", "reward", "ppo", "evaluate"])
def test_a_run_that_lacks_a_stage_tells_of_the_others(tmp_path: Path, missing: str) -> None:
    page = draw(make_run(tmp_path, [name for name in NAMES if name != missing]))
    for word in ("None", "nan", "Undefined"):
        assert word not in page.text, f"a figure is shown as {word}"


@pytest.mark.parametrize("stage", ["pmp", "reward", "ppo"])
def test_a_model_under_way_shows_its_curves(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path, NAMES[: NAMES.index(stage)])
    make_run(tmp_path, [stage])
    (run / stage / "stage.json").unlink()
    page = draw(run)
    shows(page.text, "under way", "Reward of a response" if stage == "ppo" else "Loss, ")


def test_figures_of_an_earlier_day_or_half_of_them_are_no_error(tmp_path: Path) -> None:
    figures = changed("ppo", training={"score": {"before": None}}, score={"before": -2.0, "after": -1.0})
    figures["reward"]["unseen"] = None
    figures["reward"]["by_skill"] = {"copy_one": {"pairs": 3}}
    figures["evaluate"]["aligned"] = {"win_rate": {"value": 0.5}}
    run = make_run(tmp_path, NAMES, figures)
    write_lines(run / "ppo" / "samples.jsonl", [{"step": 1}])
    write_lines(run / "ppo" / "metrics.jsonl", [{"step": 1, "objective/kl": float("nan")}])
    shows(one_line(draw(run).text), "50.0% won")


def test_the_reward_model_of_a_run_without_pretraining_is_told_alone(tmp_path: Path) -> None:
    view = reward_models(tmp_path, {"reward": FIGURES["reward"]})
    assert [model["style"] for model in view["models"]] == ["after"]
    assert [len(row["models"]) for row in view["by_skill"]] == [1]


def test_long_hostile_text_of_every_new_stage_stays_text(tmp_path: Path) -> None:
    long = ATTACK * 200
    pair = {"messages": [{"role": "user", "content": long}], "chosen": long, "rejected": long}
    run = make_run(tmp_path, NAMES, changed("comparisons", examples={ATTACK: [pair]}))
    sample = {"prompt": long, "response": long, "ended": False, "score": 1.0, "kl": 0.0}
    write_lines(run / "ppo" / "samples.jsonl", [{"step": ATTACK, "samples": [sample]}])
    write(run / "reward" / "recipe.json", {"recipe": {"step": {"learning_rate": ATTACK}}})
    page = draw(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img" not in html
    assert page.text.count(long) == 5, "prompt and both replies of a pair, prompt and response of a sample"


def test_prompts_are_taken_apart_into_their_turns() -> None:
    prompt = "<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n<|im_start|>user\nd<|im_end|>\n"
    turns = turns_of(prompt + "<|im_start|>assistant\n")
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "a\n\nb"),
        ("assistant", "c"),
        ("user", "d"),
    ]
    assert turns_of("no markers") == [{"role": "user", "content": "no markers"}]
    assert turns_of(None) == [{"role": "user", "content": ""}]


def test_one_interval_of_samples_is_shown_once() -> None:
    records = [{"step": step, "samples": []} for step in (1, 11, 21)]
    assert [record["step"] for record in first_and_last(records)] == [1, 21]
    assert len(first_and_last(records[:1])) == 1
    assert first_and_last([]) == []


def test_bars_of_win_rates_begin_in_the_middle() -> None:
    won = around_half({"value": 0.6, "low": 0.55, "high": 0.7}, reach=0.2)
    lost = around_half({"value": 0.4, "low": 0.3, "high": 0.5}, reach=0.2)
    assert won == pytest.approx({"left": 50, "width": 25, "low": 62.5, "span": 37.5, "style": "gain"})
    assert lost == pytest.approx({"left": 25, "width": 25, "low": 0, "span": 50, "style": "loss"})
    assert around_half({"value": 0.6}, reach=0.2) is None


def test_every_stage_has_a_name_in_both_languages() -> None:
    assert set(NAMES) <= STAGES.keys()
