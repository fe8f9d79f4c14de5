"""Runs of PPO: what moves when, what a run says and leaves behind, and what it refuses (R10, K10)."""

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import danlu
from danlu.model.checkpoint import load_model, load_reward_model, save_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.metrics import read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.config import TokenizerConfig
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.special import special_tokens
from danlu.tokenizer.train import learn_ranks
from danlu.training import ppo as ppo_module
from danlu.training.experience import Experience, Models, gather_experience
from danlu.training.optimizer import make_optimizers
from danlu.training.ppo import PpoJob, encode_prompts, ppo
from danlu.training.ppo_config import PpoConfig

MakeConfig = Callable[..., PpoConfig]
Write = Callable[[Path, Sequence[Sequence[tuple[str, str]]]], Path]


def figures_of(config: PpoConfig) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((config.out / "figures.json").read_text(encoding="utf-8"))
    return figures


def same_weights(first: Path, second: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, second))
    return all(tensor.equal(ours[name]) for name, tensor in theirs.items())


def newest_checkpoint(out: Path) -> Path:
    return max((out / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


# What moves, and when


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The responses of every step that is made, [step][response]."""
    seen: list[list[list[int]]] = []

    def noting(*arguments: Any) -> Experience:
        experience = gather_experience(*arguments)
        seen.append([sequence.response_ids for sequence in experience.sequences])
        return experience

    monkeypatch.setattr(ppo_module, "gather_experience", noting)
    return seen


def job_of(config: PpoConfig, tokenizer: Tokenizer) -> PpoJob:
    """A run's steps without the run around them."""
    policy, reference = (load_model(config.model) for _ in range(2))
    value_model, reward_model = (load_reward_model(config.reward_model) for _ in range(2))
    models = Models(policy, reference, value_model, reward_model, compiled=False, bf16=config.bf16)
    (policy_optimizer,) = make_optimizers(policy, config.optimizer, gains_apart=True)
    optimizers = [policy_optimizer, *make_optimizers(value_model, config.optimizer)]
    prompts, _ = encode_prompts(config, tokenizer)
    return PpoJob(config, models, prompts, tokenizer, None, optimizers)


def test_with_rates_of_0_fifty_steps_change_nothing(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, rollouts: list[list[list[int]]], tmp_path: Path
) -> None:
    config = tiny_ppo(
        out=tmp_path / "run", max_steps=50, queries=2, minibatches=2, max_new_tokens=4,
        policy_learning_rate=0.0, value_learning_rate=0.0,
    )  # fmt: skip
    assert same_weights(ppo(config), config.model), "the policy has moved"
    learnt = load_file(newest_checkpoint(config.out) / "model.safetensors")
    for name, tensor in load_reward_model(config.reward_model).state_dict().items():
        assert tensor.equal(learnt[f"value_model.{name}"]), f"the value model's {name} has moved"
    log = read_jsonl(config.out / "metrics.jsonl")
    assert len(log) == 50
    for record in log:
        assert record["objective/kl"] == 0
        assert record["policy/clipfrac"] == 0
        assert record["policy/ratio_furthest_from_1"] < 1e-5
        assert record["policy/ratio"] == pytest.approx(1, abs=1e-5)
        assert record["rollout/logprob_difference_max"] < 1e-4
    assert len({str(responses) for responses in rollouts}) > 40, "the steps draw alike"
    first = rollouts[:50]
    ppo(dataclasses.replace(config, out=tmp_path / "again", max_steps=6))
    assert rollouts[50:] == first[:6], "the same prompts, seed and weights gave other responses"
    job = job_of(dataclasses.replace(config, out=tmp_path / "alone"), tiny_tokenizer)
    job.steps = 33
    job.step()
    job.close()
    assert rollouts[-1] == first[33], "what a step draws depends on the steps before it"


def test_the_policy_is_frozen_until_the_value_model_has_learnt_for_a_while(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    job = job_of(tiny_ppo(frozen_steps=2, out=tmp_path), tiny_tokenizer)
    models = {name: getattr(job.models, name) for name in ("policy", "reference", "value_model", "reward_model")}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    for step, learning in enumerate([{"value_model"}, {"value_model"}, {"value_model", "policy"}], start=1):
        record = job.step()
        moved = {
            name
            for name, model in models.items()
            if not all(tensor.equal(before[name][key]) for key, tensor in model.state_dict().items())
        }
        assert moved == learning, f"in step {step}"
        assert "value/loss" in record
        assert ("policy/loss" in record) == ("policy" in learning)
    job.close()


@pytest.mark.parametrize("learning", ["policy", "value_model"])
def test_each_model_follows_its_own_rate(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, tmp_path: Path, learning: str
) -> None:
    rates = {"policy": {"value_learning_rate": 0.0}, "value_model": {"policy_learning_rate": 0.0}}[learning]
    job = job_of(tiny_ppo(out=tmp_path, **rates), tiny_tokenizer)
    models = {"policy": job.models.policy, "value_model": job.models.value_model}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    job.step()
    job.close()
    for name, model in models.items():
        stayed = all(tensor.equal(before[name][key]) for key, tensor in model.state_dict().items())
        assert stayed == (name != learning), name


def test_a_prompt_that_comes_again_is_answered_anew(
    tiny_ppo: MakeConfig, write_conversations: Write, rollouts: list[list[list[int]]], tmp_path: Path
) -> None:
    data = write_conversations(tmp_path / "one.jsonl", [[("user", "the river was cold")]])
    ppo(
        tiny_ppo(
            out=tmp_path / "run", data=data, queries=1, max_steps=6, policy_learning_rate=0.0, value_learning_rate=0.0
        )
    )
    assert len({str(responses) for responses in rollouts}) == 6


def test_a_rate_rises_from_when_its_model_begins_to_learn(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = tiny_ppo(out=tmp_path, frozen_steps=2, warmup_steps=4, policy_learning_rate=1e-4, value_learning_rate=4e-4)
    job = job_of(config, tiny_tokenizer)
    rates = []
    for _ in range(7):
        job.step()
        rates.append([group["lr"] for group in (*job.value_optimizer.param_groups, *job.policy_optimizer.param_groups)])
    job.close()
    value = [1e-4, 2e-4, 3e-4, 4e-4, 4e-4, 4e-4, 4e-4]
    policy = [0.0, 0.0, 2.5e-5, 5e-5, 7.5e-5, 1e-4, 1e-4]
    for step, found in enumerate(rates):
        assert found == pytest.approx([value[step]] * 2 + [policy[step]] * 3), f"step {step + 1}"


def test_the_gains_may_have_a_rate_of_their_own(tiny_ppo: MakeConfig, tmp_path: Path) -> None:
    config = tiny_ppo(out=tmp_path, max_steps=2, frozen_steps=0, policy_learning_rate=0.0, gain_learning_rate=1e-3)
    before, after = (load_file(path / "model.safetensors") for path in (config.model, ppo(config)))
    moved = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert moved == {name for name in before if name.endswith("norm.weight")}


def test_a_run_whose_gradients_stay_not_finite_gives_up_and_says_so(
    tiny_ppo: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_ppo(out=tmp_path, max_steps=30, frozen_steps=30)
    monkeypatch.setattr(ppo_module, "step_model", lambda *_: float("nan"))
    with pytest.raises(UserError, match="the gradient was not finite in 10 steps in a row, up to step 10"):
        ppo(config)
    assert not (tmp_path / "model").exists()


def test_a_run_of_frozen_steps_alone_hands_on_the_policy_bit_for_bit(tiny_ppo: MakeConfig, tmp_path: Path) -> None:
    config = tiny_ppo(out=tmp_path, max_steps=2, frozen_steps=2)
    assert same_weights(ppo(config), config.model)


# What a run says and leaves behind


def test_a_run_leaves_a_chat_model_its_figures_and_samples(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = tiny_ppo(out=tmp_path, max_steps=7, frozen_steps=2, samples_every=3, queries=3, responses_per_query=2)
    model, tokenizer = danlu.load(ppo(config))
    assert tokenizer is not None
    assert danlu.generate(model, tokenizer, [{"role": "user", "content": "hi"}], max_new_tokens=3) is not None
    log, figures = read_jsonl(tmp_path / "metrics.jsonl"), figures_of(config)
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6, 7]
    assert (figures["prompts"], figures["dropped"], figures["steps"], figures["stopped"]) == (12, {}, 7, None)
    for name, key in {"score": "score", "kl": "kl", "entropy": "entropy"}.items():
        values = [record[f"objective/{key}"] for record in log]
        assert figures["training"][name]["before"] == pytest.approx(sum(values[:2]) / 2), "the frozen steps"
        assert figures["training"][name]["after"] == pytest.approx(sum(values) / 7), "the last ten, or all of fewer"
    assert figures["training"]["kl"]["before"] == 0 < abs(log[-1]["objective/kl"])
    learnt = sum(record["response/length"] for record in log[2:]) * 6
    assert (figures["policy_tokens"], figures["pretrain_tokens"]) == (pytest.approx(learnt), 0)
    samples = read_jsonl(tmp_path / "samples.jsonl")
    assert [record["step"] for record in samples] == [1, 4, 7], "every third step, from the first on"
    for record in samples:
        assert len(record["samples"]) == 3, "a response to each prompt, up to four"
        for sample in record["samples"]:
            assert sample["prompt"].endswith("<|im_start|>assistant\n")
            assert math.isfinite(sample["score"]), sample
            assert sample.keys() == {"prompt", "response", "ended", "score", "kl"}
    assert {sample["ended"] for record in samples for sample in record["samples"]} == {True, False}


def test_prompts_are_gone_through_in_passes(tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """12 prompts, 5 a step: each once in a pass, whatever step the pass ends in, and every pass in another order."""
    job = job_of(tiny_ppo(out=tmp_path, queries=5), tiny_tokenizer)
    asked = [tuple(prompt) for step in range(12) for prompt in job.queries(step)]
    passes = [asked[start : start + 12] for start in range(0, 60, 12)]
    assert all(len(set(one)) == 12 for one in passes)
    assert len(set(map(tuple, passes))) == 5


def test_a_run_whose_kl_runs_away_stops_and_hands_on_what_it_has(
    tiny_ppo: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_ppo(
        out=tmp_path, max_steps=40, policy_learning_rate=0.005, max_kl=4.0, kl_coef=0.0, samples_every=100
    )
    model = ppo(config)
    figures, log = figures_of(config), read_jsonl(tmp_path / "metrics.jsonl")
    assert 1 < figures["steps"] == len(log) < 40
    assert log[-1]["objective/kl"] > 4 >= max(record["objective/kl"] for record in log[:-1])
    assert figures["stopped"] == f"KL {log[-1]['objective/kl']:.1f} above max_kl 4 at step {len(log)}"
    assert f"ppo: stopped, {figures['stopped']}" in capsys.readouterr().err
    assert "policy/loss" not in log[-1], "nothing is learnt from the step that ended the run"
    assert [record["step"] for record in read_jsonl(tmp_path / "samples.jsonl")] == [1, len(log)], "its last words"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(model / "model.safetensors").values())
    assert not same_weights(model, config.model)
    learnt = sum(record["response/length"] for record in log[:-1]) * 8
    assert figures["policy_tokens"] == pytest.approx(learnt)
    monkeypatch.setattr(PpoJob, "step", None)
    ppo(config)
    assert figures_of(config) == figures, "started again it goes no further"


# Prompts and other inputs

GOOD = [[("user", f"hi{' the river' * number}")] for number in range(4)]


def test_prompts_that_cannot_be_used_are_counted_with_an_example(
    tiny_ppo: MakeConfig, write_conversations: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_conversations(
        tmp_path / "p.jsonl",
        [
            *GOOD,
            [("user", "so"), ("assistant", "a last reply is left out")],
            [("user", "the river was cold " * 9)],
            [("user", "zebra " * 30)],
            [("user", "so"), ("system", "be brief"), ("user", "so")],
            [("assistant", "who is there"), ("user", "so")],
            [("user", "")],
            [("teacher", "so")],
        ],
    )
    with data.open("a", encoding="utf-8") as stream:
        stream.write('{"messages": [\n{"text": "so"}\n')
    config = tiny_ppo(out=tmp_path / "run", data=data, max_steps=1)
    ppo(config)
    figures, said = figures_of(config), capsys.readouterr().err
    assert figures["prompts"] == 5
    room = "leaves no room for 5 tokens within 64"
    assert {reason.partition(",")[0]: count for reason, count in figures["dropped"].items()} == {
        room: 2,
        "malformed record: turn N: a system turn may only come first": 1,
        "malformed record: the assistant speaks before the user": 1,
        "malformed record: turn N: the user's turn is empty": 1,
        "malformed record: unknown role 'teacher'; known are system": 1,
        "malformed record: not valid JSON: Expecting value: line N column N (char N)": 1,
        "malformed record: none of `messages`": 1,
    }
    assert len(figures["dropped_examples"]) == len(figures["dropped"])
    assert figures["dropped_examples"][0].startswith("'the river was cold"), "the prompt itself names the first"
    assert f"{data}, line 10: turn 1: the user's turn is empty" in figures["dropped_examples"]
    for example in figures["dropped_examples"]:
        assert f"ppo: left out, for example: {example}" in said


def test_fewer_prompts_than_a_step_asks_are_refused(
    tiny_ppo: MakeConfig, write_conversations: Write, tmp_path: Path
) -> None:
    data = write_conversations(tmp_path / "p.jsonl", [*GOOD[:3], [("user", "the river was cold " * 9)]])
    with pytest.raises(UserError, match="3 prompts can be used, fewer than one step's 4") as error:
        ppo(tiny_ppo(out=tmp_path / "run", data=data))
    assert "leaves no room" in str(error.value)
    assert str(data) in str(error.value)
    assert not (tmp_path / "run").exists(), "the run had begun"


def with_nan(folder: Path, out: Path) -> Path:
    """The reward model with a head that is not a number."""
    model = load_reward_model(folder)
    torch.nn.init.constant_(model.score.weight, math.nan)
    save_model(out, model, folder, [297, 295], 295)
    return out


def with_other_tokens(folder: Path, out: Path) -> Path:
    """The same model with a tokenizer of other tokens."""
    shutil.copytree(folder, out)
    ranks = learn_ranks(
        ["other texts, other tokens: zebra zebra zebra"], TokenizerConfig(vocab_size=270, num_extra_special=2)
    )
    Tokenizer(Vocabulary(ranks, special_tokens(len(ranks), 2))).save(out)
    return out


REFUSED: dict[str, tuple[Callable[[PpoConfig, Path, Path], dict[str, Any]], str]] = {
    "another tokenizer": (
        lambda config, out, shards: {"reward_model": with_other_tokens(config.reward_model, out / "other")},
        "other: its tokenizer is not that of",
    ),
    "a reward that is not a number": (
        lambda config, out, shards: {"reward_model": with_nan(config.reward_model, out / "nan")},
        "nan: the reward of response 0 of this step is nan",
    ),
    "a language model for a reward model": (
        lambda config, out, shards: {"reward_model": config.model},
        "policy: this is not a reward model",
    ),
    "a reward model for a policy": (
        lambda config, out, shards: {"model": config.reward_model},
        "reward: this is a reward model",
    ),
    "no folder": (lambda config, out, shards: {"model": out / "absent"}, "absent: no such model folder"),
    "no prompts": (lambda config, out, shards: {"data": out / "absent"}, "absent: no such file of prompts"),
    "rows longer than the models read": (
        lambda config, out, shards: {"sequence_length": 129},
        "sequence_length is 129, the models read 128 tokens",
    ),
    "a coefficient without text": (
        lambda config, out, shards: {"pretrain_coef": 0.5},
        "pretrain_coef needs pretraining data",
    ),
    "a coefficient with no shards in the folder": (
        lambda config, out, shards: {"pretrain_coef": 0.5, "pretraining": out},
        "train",
    ),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_go_together_is_refused_in_one_line(
    tiny_ppo: MakeConfig, tiny_shards: Path, tmp_path: Path, change: Callable[..., dict[str, Any]], said: str
) -> None:
    config = tiny_ppo(out=tmp_path / "run")
    config = dataclasses.replace(config, **change(config, tmp_path, tiny_shards))
    with pytest.raises(UserError) as error:
        ppo(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "model").exists()


def test_shards_of_another_vocabulary_are_refused(
    tiny_ppo: MakeConfig, tiny_model: Callable[..., Transformer], tiny_shards: Path, tmp_path: Path
) -> None:
    config = tiny_ppo(out=tmp_path / "run", pretraining=tiny_shards, pretrain_coef=0.5)
    models = {
        name: with_other_tokens(folder, tmp_path / name)
        for name, folder in {"model": config.model, "reward_model": config.reward_model}.items()
    }
    with pytest.raises(UserError, match=r"train: made with a vocabulary of 300, but .* has 270"):
        ppo(dataclasses.replace(config, **models))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queries": 4, "minibatches": 3}, "rollout.queries 4 must be a multiple of minibatches 3"),
        ({"pretrain_coef": 0.1, "pretrain_batch_size": 5}, "pretrain_batch_size 5 must be a multiple of"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"kl_coef": -0.1}, "kl_coef must be a number from 0 upwards"),
        ({"max_kl": math.nan}, "max_kl must be positive"),
        ({"lam": 1.01}, "lam must lie in"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_run_are_refused_before_anything_is_read(
    tiny_ppo: MakeConfig, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_ppo(**changes)
