"""The reward stage: it learns a preference, however its steps are cut or stopped, and refuses what teaches nothing."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from danlu import cli
from danlu.conversations.comparisons import Comparison
from danlu.conversations.prompt_split import normalised_prompt, prompt_text
from danlu.conversations.records import Message
from danlu.inference.score import score_groups
from danlu.model.checkpoint import load_reward_model, load_with_new_score, save_model
from danlu.model.transformer import ScalarModel, Transformer
from danlu.run.errors import UserError
from danlu.run.metrics import read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.training import loop as loop_module
from danlu.training.comparison_data import PairSteps, PromptGroup, encode_comparisons
from danlu.training.config import PairStepConfig, RewardConfig
from danlu.training.held_out import read_held_out
from danlu.training.reward import PairLoss, reward
from danlu.training.step import Forward, accumulate_gradients

MakeModel = Callable[..., Transformer]

LIMIT = 64
GOOD, BAD = "cold", "bank"
"""The words that make a reply the better and the worse one; of one length."""

FILLERS = ("river", "clear", "world", "miles", "today")


def preference(number: int, prompt: str | None = None) -> Comparison:
    """A prompt of its own; the better reply has one word, the worse one another, among the same others."""
    chance = Random(number)
    around = chance.choices(FILLERS, k=2)
    texts = [f"{around[0]} {word} {around[1]}" for word in (GOOD, BAD)]
    asked = prompt or f"{number * 7919 % 100_003} {chance.choice(FILLERS)}"
    return Comparison((Message("user", asked),), texts[0], texts[1], ("red", "blue")[number % 2], "choose")


def write(path: Path, rows: Sequence[Comparison | str]) -> Path:
    """Comparisons as JSON lines; texts are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row.to_json(), ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model's folder."""
    tokenizer = Tokenizer.load(tiny_tokenizer_folder)
    folder = tmp_path_factory.mktemp("base") / "model"
    model = tiny_model(num_key_value_heads=2, max_position_embeddings=LIMIT)
    save_model(folder, model, tiny_tokenizer_folder, list(tokenizer.stop_ids), tokenizer.end_of_text_id)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.jsonl` (5 of its 65 prompts are held-out ones), `test.jsonl` and `unseen.jsonl`."""
    folder = tmp_path_factory.mktemp("comparisons")
    test, unseen = (
        [preference(number) for number in range(100, 125)],
        [preference(number) for number in range(200, 210)],
    )
    shared = [preference(300 + number, f" {test[number].messages[0].content}!!") for number in range(3)]
    shared += [preference(310 + number, unseen[number].messages[0].content) for number in range(2)]
    write(folder / "train.jsonl", [*shared, *(preference(number) for number in range(60))])
    write(folder / "test.jsonl", test)
    write(folder / "unseen.jsonl", unseen)
    return folder


STEP = PairStepConfig(
    sequence_length=LIMIT, batch_size=8, micro_batch_size=2, max_steps=60, learning_rate=0.003, bf16=False,
    compile=False, checkpoint_every=30,
)  # fmt: skip


def config(model: Path, files: Path, out: Path, **changes: Any) -> RewardConfig:
    """`max_steps` and other values of the step may be named beside the stage's own."""
    names = {field.name for field in dataclasses.fields(PairStepConfig)}
    step = dataclasses.replace(STEP, **{name: value for name, value in changes.items() if name in names})
    values = {
        "data": files / "train.jsonl", "test": files / "test.jsonl", "unseen": files / "unseen.jsonl",
        **{name: value for name, value in changes.items() if name not in names},
    }  # fmt: skip
    return RewardConfig(model=model, out=out, step=step, device="cpu", **values)


@pytest.fixture(scope="module")
def trained(base: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reward model that has learnt the preference."""
    return reward(config(base, files, tmp_path_factory.mktemp("trained") / "reward"))


def figures_of(model: Path) -> dict[str, Any]:
    return json.loads((model.parent / "figures.json").read_text(encoding="utf-8"))


def refusal(config: RewardConfig) -> str:
    with pytest.raises(UserError) as error:
        reward(config)
    assert "\n" not in str(error.value), "the refusal must be one line"
    assert not (config.out / "metrics.jsonl").exists(), "training had begun"
    return str(error.value)


# --- it learns ---


def test_a_simple_preference_is_learnt_and_holds_for_new_prompts(trained: Path) -> None:
    figures = figures_of(trained)
    assert figures["accuracy"]["value"] >= 0.95, "nothing was learnt"
    assert figures["unseen"]["accuracy"]["value"] >= 0.9
    assert figures["loss"] < 0.3, "ln 2 is what a model without a preference has"
    assert (figures["pairs"], figures["unseen"]["pairs"]) == (25, 10)
    assert {name: row["pairs"] for name, row in figures["by_source"].items()} == {"blue": 12, "red": 13}
    assert figures["by_skill"]["choose"]["accuracy"] == figures["accuracy"]
    assert figures["length_baseline_accuracy"]["value"] == 0.5, "both replies are of one length"
    assert figures["length_bias"]["all"]["equal"] == 1.0
    assert figures["calibration"]["error"] < 0.2
    assert (figures["before"], figures["unseen"]["before"]) == (None, None), "the head was new"


def test_what_was_learnt_from_is_counted(trained: Path) -> None:
    figures, log = figures_of(trained), read_jsonl(trained.parent / "metrics.jsonl")
    assert (figures["comparisons"], figures["prompts"], figures["shared_prompts"], figures["steps"]) == (60, 60, 5, 60)
    assert (figures["dropped"], figures["held_out_dropped"]) == ({}, {"test": {}, "unseen": {}})
    # 60 comparisons an epoch in steps of 8: seven full ones and one of 4.
    assert [record["targets"] for record in log[:8]] == [8] * 7 + [4]
    assert log[-1]["step"] == 60
    assert max(record["accuracy"] for record in log) == 1.0
    assert figures["loss"] == pytest.approx(sum(record["loss"] for record in log[-50:]) / 50)
    assert figures["pairs_per_s"] > 0


def test_transformers_gives_the_trained_rewards(trained: Path, files: Path, tiny_tokenizer: Tokenizer) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(trained).eval()
    test = [preference(number) for number in range(100, 125)]
    groups = [group.group for group in encode_comparisons(test, tiny_tokenizer, LIMIT).groups]
    ours = score_groups(load_reward_model(trained), groups)
    texts = [[*prompt, *response] for prompt, responses in groups for response in responses]
    width = max(map(len, texts))
    ids = torch.tensor([text + [theirs.config.pad_token_id] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    with torch.no_grad():
        rewards = theirs(ids, attention_mask=mask).logits[:, 0].view(-1, 2)
    difference = float((rewards - torch.tensor(ours)).abs().max())
    assert difference < 1e-4, f"rewards differ by {difference:.1e}"
    right = float((rewards[:, 0] > rewards[:, 1]).double().mean())
    assert right == figures_of(trained)["accuracy"]["value"], "the accuracy told is not that of the saved model"


def test_going_on_from_a_reward_model_keeps_its_head_and_tells_the_accuracy_before(
    trained: Path, files: Path, tmp_path: Path
) -> None:
    """With a rate so small that no weight moves."""
    again = reward(config(trained, files, tmp_path / "reward", max_steps=2, learning_rate=1e-30))
    for name, tensor in load_file(trained / "model.safetensors").items():
        assert load_file(again / "model.safetensors")[name].equal(tensor), f"{name} was made anew"
    old, new = figures_of(trained), figures_of(again)
    assert new["before"] == new["accuracy"] == old["accuracy"]
    assert new["unseen"]["before"] == new["unseen"]["accuracy"] == old["unseen"]["accuracy"]


def test_before_is_the_accuracy_of_the_model_that_was_started_from(trained: Path, files: Path, tmp_path: Path) -> None:
    """Learning the opposite from a good model: the accuracy falls, and what it was is told."""
    turned = [dataclasses.replace(preference(number), chosen=preference(number).rejected,
                                  rejected=preference(number).chosen) for number in range(60)]  # fmt: skip
    data = write(tmp_path / "turned.jsonl", turned)
    again = figures_of(reward(config(trained, files, tmp_path / "reward", data=data, learning_rate=0.01, max_steps=40)))
    assert again["before"] == figures_of(trained)["accuracy"]
    assert again["accuracy"]["value"] < 0.2


def test_a_new_head_depends_on_the_seed_alone(base: Path, files: Path, tmp_path: Path) -> None:
    heads = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        torch.manual_seed(len(heads))
        folder = reward(config(base, files, tmp_path / name, max_steps=1, learning_rate=1e-30, seed=seed))
        heads.append(load_file(folder / "model.safetensors")["score.weight"])
    assert heads[0].equal(heads[1])
    assert not heads[0].equal(heads[2])


@pytest.mark.usefixtures("bfloat16_even_in_software")
def test_bfloat16_products_learn_about_the_same(base: Path, files: Path, tmp_path: Path) -> None:
    losses = []
    for bf16 in (False, True):
        folder = reward(config(base, files, tmp_path / str(bf16), max_steps=4, learning_rate=1e-4, bf16=bf16))
        losses.append([record["loss"] for record in read_jsonl(folder.parent / "metrics.jsonl")])
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert losses[0] != losses[1], "bfloat16 was not used"
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def prompt_levels(folder: Path, tokenizer: Tokenizer) -> Tensor:
    """The mean reward of both replies to each test prompt."""
    test = [preference(number) for number in range(100, 125)]
    groups = [group.group for group in encode_comparisons(test, tokenizer, LIMIT).groups]
    return torch.tensor(score_groups(load_reward_model(folder), groups)).mean(-1)


def test_centring_holds_the_rewards_of_new_prompts_around_0_and_the_preference_is_learnt(
    trained: Path, base: Path, files: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    centred = reward(config(base, files, tmp_path / "reward", centre_coef=0.05))
    assert figures_of(centred)["accuracy"]["value"] >= 0.95
    free, held = (float(prompt_levels(folder, tiny_tokenizer).abs().mean()) for folder in (trained, centred))
    assert held < 0.5 * free, f"prompts lie {held:.2f} from 0 with centring, {free:.2f} without"


# --- how a step is cut changes nothing (T01) ---


@pytest.fixture(scope="module")
def scalar_model(tiny_scalar_model: Callable[..., ScalarModel]) -> ScalarModel:
    return tiny_scalar_model(dtype=torch.float64, num_key_value_heads=2).train()


def eight_rows() -> list[PromptGroup]:
    """Prompts whose groups nearly fill a row of 40 each, with 1 to 6 pairs."""
    chance = Random(4)

    def ids(length: int) -> list[int]:
        return [chance.randrange(300) for _ in range(length)]

    pairs = [[(0, 1)], [(0, 1), (2, 1)], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], [(2, 0)]]
    return [
        PromptGroup(prompt=ids(3 + number), responses=[ids(chance.randint(6, 8)) for _ in range(4)], pairs=chosen)
        for number, chosen in enumerate(pairs * 2)
    ]


def loss_and_gradients(
    model: ScalarModel, rows_at_once: int, centre_coef: float = 0.0
) -> tuple[float, int, dict[str, Tensor], float]:
    """Of one step over the eight rows: the mean loss, the pairs, the gradients, the share of pairs got right."""
    model.zero_grad()
    steps = PairSteps(
        eight_rows(), batch_size=100, sequence_length=40, rows_at_once=rows_at_once, num_steps=0, epochs=1, seed=1
    )
    assert len(steps) == 1
    loss_function = PairLoss(model, Forward(model, compiled=False, bf16=False), centre_coef)
    assert len(steps[0]) == 8 // rows_at_once
    loss, num_targets = accumulate_gradients(loss_function, steps[0])
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    return loss, num_targets, gradients, loss_function.right.figures()["accuracy"]


@pytest.mark.parametrize("centre_coef", [0.0, 0.3])
@pytest.mark.parametrize("rows_at_once", [4, 2, 1])
def test_eight_rows_give_the_same_step_however_they_are_split(
    scalar_model: ScalarModel, rows_at_once: int, centre_coef: float
) -> None:
    loss, num_pairs, gradients, right = loss_and_gradients(scalar_model, 8, centre_coef)
    assert num_pairs == 20
    assert 0 < right < 1
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0.01
    other_loss, other_pairs, other, other_right = loss_and_gradients(scalar_model, rows_at_once, centre_coef)
    assert (other_pairs, other_right) == (num_pairs, right)
    assert abs(other_loss - loss) < 1e-10, f"loss of {8 // rows_at_once}x{rows_at_once}"
    difference, name = max((float((gradients[name] - other[name]).abs().max()), name) for name in gradients)
    assert difference < 1e-10, f"{8 // rows_at_once}x{rows_at_once}: the gradient of {name} moved by {difference:.1e}"


def test_the_loss_of_a_step_is_the_mean_over_its_pairs_of_responses_read_alone(scalar_model: ScalarModel) -> None:
    losses, squares = [], []
    with torch.no_grad():
        for group in eight_rows():
            ends = [scalar_model(torch.tensor([[*group.prompt, *ids]]))[0, -1] for ids in group.responses]
            losses += [-torch.sigmoid(ends[better] - ends[worse]).log() for better, worse in group.pairs]
            squares += [(ends[better] + ends[worse]) ** 2 for better, worse in group.pairs]
    pairwise, centring = (float(torch.stack(values).mean()) for values in (losses, squares))
    assert loss_and_gradients(scalar_model, 2)[0] == pytest.approx(pairwise, abs=1e-10)
    assert loss_and_gradients(scalar_model, 2, 0.3)[0] == pytest.approx(pairwise + 0.3 * centring, abs=1e-10)


# --- stopping and going on ---


class Crash(Exception):
    """Stands for whatever may end a run."""


def crash_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """The next run crashes once it has logged so many steps, before it can save anything."""
    write_record, written = loop_module.MetricsLog.write, [0]

    def crashing(self: Any, record: dict[str, Any]) -> None:
        write_record(self, record)
        written[0] += 1
        if written[0] == steps:
            raise Crash

    patch.setattr(loop_module.MetricsLog, "write", crashing)


def outcome(model: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]], dict[str, Any]]:
    """Final weights, log and figures, all but the speeds."""
    speeds = ("tokens_per_s", "targets_per_s", "pairs_per_s", "mfu")
    log = [
        {k: v for k, v in record.items() if k not in speeds} for record in read_jsonl(model.parent / "metrics.jsonl")
    ]
    figures = {name: value for name, value in figures_of(model).items() if name not in speeds}
    return load_file(model / "model.safetensors"), log, figures


TWO_EPOCHS: dict[str, Any] = {"max_steps": 0, "epochs": 2, "checkpoint_every": 5}


@pytest.mark.parametrize(
    ("goes_on", "crashes"),
    [(False, [[2], [4, 3, 12]]), (True, [[8, 9]])],
    ids=["a new head", "from a reward model"],
)
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    base: Path, trained: Path, files: Path, tmp_path: Path, goes_on: bool, crashes: list[list[int]]
) -> None:
    """Before the first checkpoint, and between two."""
    start = trained if goes_on else base
    whole_weights, whole_log, whole_figures = outcome(reward(config(start, files, tmp_path / "whole", **TWO_EPOCHS)))
    assert len(whole_log) == 16
    assert (whole_figures["before"] is not None) is goes_on
    for number, steps_of_each in enumerate(crashes):
        stopped = config(start, files, tmp_path / str(number), **TWO_EPOCHS)
        for steps in steps_of_each:
            with pytest.MonkeyPatch.context() as patch:
                crash_after(patch, steps)
                with pytest.raises(Crash):
                    reward(stopped)
        weights, log, figures = outcome(reward(stopped))
        assert log == whole_log, f"the logs differ after crashes at {steps_of_each}"
        assert figures == whole_figures, f"the figures differ after crashes at {steps_of_each}"
        for name, tensor in weights.items():
            assert tensor.equal(whole_weights[name]), f"{name} differs after crashes at {steps_of_each}"


# --- what is held out ---


def test_held_out_prompts_are_never_learnt_from(files: Path, tmp_path: Path) -> None:
    found = read_held_out(config(tmp_path, files, tmp_path))
    sizes = {name: len(part) for name, part in found.comparisons.items()}
    assert (sizes, found.shared) == ({"train": 60, "test": 25, "unseen": 10}, 5)
    assert not any(part.counts for part in found.left_out.values())
    held_out = {normalised_prompt(prompt_text(item)) for name in ("test", "unseen") for item in found.comparisons[name]}
    assert held_out.isdisjoint(normalised_prompt(prompt_text(item)) for item in found.comparisons["train"])


def test_what_a_file_of_tests_leaves_out_is_counted_apart(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = write(tmp_path / "test.jsonl", [*(preference(number) for number in range(100, 104)), "{"])
    figures = figures_of(reward(config(base, files, tmp_path / "reward", test=test, max_steps=2)))
    assert figures["dropped"] == {}
    (reason,) = figures["held_out_dropped"]["test"]
    assert reason.startswith("malformed record: not valid JSON")
    assert f"reward, test: left out, for example: {test}, line 5" in capsys.readouterr().err


def test_without_a_test_file_a_part_of_the_prompts_is_held_out(files: Path, base: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"test": None, "unseen": None, "test_share": 0.3}
    found = read_held_out(config(tmp_path, files, tmp_path, **values))
    train, test = found.comparisons["train"], found.comparisons["test"]
    assert (len(train) + len(test), set(found.comparisons), found.shared) == (65, {"train", "test"}, 0)
    assert 8 <= len(test) <= 32
    again = read_held_out(config(tmp_path, files, tmp_path, **values))
    assert again.comparisons == found.comparisons, "the part that is held out changes from run to run"
    figures = figures_of(reward(config(base, files, tmp_path / "reward", **values, max_steps=2)))
    assert (figures["comparisons"], figures["pairs"], figures["unseen"]) == (len(train), len(test), None)


def test_data_that_leave_nothing_to_learn_or_to_test_are_refused(base: Path, files: Path, tmp_path: Path) -> None:
    same = refusal(config(base, files, tmp_path / "reward", data=files / "test.jsonl"))
    assert "25 comparisons leave 0 to learn from and 25 to test on" in same
    one = write(tmp_path / "one.jsonl", [preference(1)])
    alone = refusal(config(base, files, tmp_path / "reward", data=one, test=None, unseen=None))
    assert str(one) in alone
    assert "--test" in alone


# --- what teaches nothing (R08, K10) ---


def too_long(number: int) -> Comparison:
    return dataclasses.replace(preference(number), chosen="the river was cold " * 20)


def test_pairs_that_are_too_long_are_left_out_and_counted(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "train.jsonl", [*(preference(number) for number in range(10)), too_long(10), too_long(11)])
    test = write(tmp_path / "test.jsonl", [*(preference(number) for number in range(100, 104)), too_long(105)])
    model = reward(config(base, files, tmp_path / "reward", data=data, test=test, max_steps=3))
    figures = figures_of(model)
    reason = f"longer than {LIMIT} tokens with both answers"
    assert (figures["comparisons"], figures["dropped"]) == (10, {reason: 2})
    assert (figures["pairs"], figures["held_out_dropped"]) == (4, {"test": {reason: 1}, "unseen": {}})
    assert f"reward: left out, for example: {figures['dropped_examples'][0]}" in capsys.readouterr().err
    for record in read_jsonl(model.parent / "metrics.jsonl"):
        assert record["loss"] > 0
        assert record["targets"] in (8, 2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(model / "model.safetensors").values())


def test_a_file_of_pairs_that_would_be_cut_away_is_refused(base: Path, files: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "long.jsonl", [too_long(1), too_long(2)])
    message = refusal(config(base, files, tmp_path / "reward", data=data))
    assert f"no comparison to learn from; {{'longer than {LIMIT} tokens with both answers': 2}}" in message
    assert str(data) in message
    assert "sequence_length" in message
    # Prompts and answers that the model could read, but not under this limit.
    message = refusal(config(base, files, tmp_path / "reward", sequence_length=20))
    assert "{'longer than 20 tokens with both answers': 60}" in message


def test_held_out_pairs_that_are_all_too_long_are_refused(base: Path, files: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [too_long(105)])
    assert str(test) in refusal(config(base, files, tmp_path / "reward", test=test))


def test_a_file_of_equal_answers_is_refused(base: Path, files: Path, tmp_path: Path) -> None:
    equal = [dataclasses.replace(preference(number), rejected=preference(number).chosen) for number in range(3)]
    message = refusal(config(base, files, tmp_path / "reward", data=write(tmp_path / "equal.jsonl", equal)))
    assert "no record is good; line 1: both replies are the same text" in message


def test_malformed_records_are_left_out_and_counted(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [preference(number) for number in range(6)]
    as_json = [json.dumps(comparison.to_json()) for comparison in good]
    data = write(
        tmp_path / "train.jsonl",
        [
            *good,
            as_json[0].replace(f'"chosen": "{good[0].chosen}"', '"chosen": NaN'),
            as_json[1].replace(f'"rejected": "{good[1].rejected}"', '"rejected": NaN'),
            as_json[2].replace(good[2].rejected, " "),
            as_json[3].replace(good[3].rejected, good[3].chosen),
            as_json[4][:-9],
            "NaN",
        ],
    )
    figures = figures_of(reward(config(base, files, tmp_path / "reward", data=data, max_steps=2)))
    assert (figures["comparisons"], sum(figures["dropped"].values())) == (6, 6)
    reasons = "; ".join(figures["dropped"])
    for reason in ("`chosen` must be text, not float", "`rejected` must be text", "is empty", "same text", "not valid"):
        assert f"{reason}" in reasons
    assert f"{data}, line 7: `chosen` must be text, not float" in figures["dropped_examples"]
    assert capsys.readouterr().err.count("reward: left out, for example: ") == 6


@pytest.mark.parametrize("side", ["longer", "shorter"])
def test_a_choice_that_length_tells_alone_is_warned_of(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    pairs = [dataclasses.replace(preference(number), chosen="far and far", rejected="far") for number in range(20)]
    if side == "shorter":
        pairs = [dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    data = write(tmp_path / "train.jsonl", pairs)
    figures = figures_of(reward(config(base, files, tmp_path / "reward", data=data, max_steps=1)))
    assert figures["length_bias"]["all"][side] == 1.0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "will learn length" in line]
    assert len(warnings) == 1
    assert f"the {side} reply is the chosen one in 100.0% of the comparisons" in warnings[0]


def test_a_choice_that_length_does_not_tell_is_not_warned_of(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward(config(base, files, tmp_path / "reward", max_steps=1))
    assert "will learn length" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes", [{"centre_coef": -0.1}, {"centre_coef": float("inf")}, {"test_share": 1.0}], ids=str
)
def test_values_that_mean_nothing_are_refused(files: Path, tmp_path: Path, changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        config(tmp_path, files, tmp_path, **changes)


# --- models that cannot be started from ---


def test_folders_that_hold_no_model_to_start_from_are_refused(
    base: Path, files: Path, tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    def refused(model: Path) -> str:
        message = refusal(config(model, files, tmp_path / "reward"))
        assert str(model) in message
        return message

    assert "no config.json here" in refused(tmp_path / "nowhere")
    assert "no config.json here" in refused(tiny_tokenizer_folder)
    save_model(tmp_path / "bare", tiny_model(), None, [1], 1)
    assert "tokenizer" in refused(tmp_path / "bare")
    save_model(tmp_path / "small", tiny_model(vocab_size=290), tiny_tokenizer_folder, [1], 1)
    assert "the tokenizer has 300 ids, the model only 290 rows" in refused(tmp_path / "small")


def test_a_reward_model_that_is_not_finite_is_refused(
    base: Path, files: Path, tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = load_with_new_score(base, torch.Generator())
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
    save_model(tmp_path / "nan", model, tiny_tokenizer_folder, [1], 1)
    assert "rewards that are not finite" in refusal(config(tmp_path / "nan", files, tmp_path / "reward"))


# --- the command ---


def command(model: Path, files: Path, out: Path, *more: str) -> list[str]:
    return [
        *("reward", "--model", str(model), "--data", str(files / "train.jsonl"), "--test", str(files / "test.jsonl")),
        *("--out", str(out), "--device", "cpu", "--step.no-bf16", "--step.no-compile", "--step.max-steps", "3"),
        *("--step.sequence-length", str(LIMIT), "--step.batch-size", "8", *more),
    ]


def test_the_command_trains_a_reward_model_once(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reward"
    assert cli.main(command(base, files, out)) == 0
    assert capsys.readouterr().out.strip() == str(out / "model")
    assert load_reward_model(out / "model").config.max_position_embeddings == LIMIT
    assert figures_of(out / "model")["steps"] == 3
    assert cli.main(command(base, files, out)) == 0
    assert "complete, skipped" in capsys.readouterr().err


def test_the_command_says_in_one_line_what_is_wrong(
    base: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(base, tmp_path, tmp_path / "reward")) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert cli.main(command(base, files, tmp_path / "other", "--step.sequence-length", "20")) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("danlu: ")]
    assert len(errors) == 1
    assert "no comparison to learn from" in errors[0]
