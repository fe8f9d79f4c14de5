"""PPO's steps equal plain Python over one response at a time (R01, R03, R04, R06, R10 of the field's known faults).

The reference below reads each prompt with its response by itself, in one plain pass of the model: it knows neither
rows nor branches, masks nor micro-batches.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from danlu.inference.engine import Sequence as Sampled
from danlu.inference.sampling import token_probabilities
from danlu.model.branches import BranchedRows
from danlu.model.checkpoint import load_model, load_reward_model
from danlu.model.transformer import Backbone, ScalarModel, Transformer
from danlu.run.metrics import read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation
from danlu.training.experience import Experience, Models, gather_experience, roll_out
from danlu.training.ppo import encode_prompts, ppo
from danlu.training.ppo_config import PpoConfig
from danlu.training.ppo_math import RunningStatistics
from danlu.training.ppo_update import add_pretraining_gradient, policy_gradient, value_gradient
from danlu.training.step import Forward, LossFunction, MicroBatch

MakeConfig = Callable[..., PpoConfig]
Gradients = dict[str, Tensor]


def models_of(config: PpoConfig, dtype: torch.dtype = torch.float32) -> Models:
    return Models(
        load_model(config.model, dtype),
        load_model(config.model, dtype),
        load_reward_model(config.reward_model, dtype),
        load_reward_model(config.reward_model, dtype),
        compiled=False,
        bf16=config.bf16,
    )


def prompts_of(config: PpoConfig, tokenizer: Tokenizer) -> list[list[int]]:
    return encode_prompts(config, tokenizer)[0]


def drawn(config: PpoConfig, models: Models, tokenizer: Tokenizer) -> list[Sampled]:
    """The responses of a first step."""
    prompts = prompts_of(config, tokenizer)[: config.rollout.queries]
    return roll_out(
        models.policy, tokenizer.stop_ids, tokenizer.vocab_size, prompts, config.rollout, config.seed, config.bf16
    )


def scored(config: PpoConfig, models: Models, sequences: list[Sampled], tokenizer: Tokenizer) -> Experience:
    prompts = [sequence.prompt_ids for sequence in sequences[:: config.rollout.responses_per_query]]
    return gather_experience(models, prompts, sequences, RunningStatistics(), config, tokenizer.vocab_size)


def by_response(experience: Experience, name: str) -> list[list[float]]:
    """Numbers of the tokens of each response in the order of `sequences`."""
    return [
        row[mask].tolist()
        for minibatch in experience.minibatches
        for micro in minibatch
        for row, mask in zip(getattr(micro, name), micro.mask, strict=True)
    ]


def move(model: nn.Module, size: float, seed: int = 5) -> None:
    """Stands for updates: move every parameter a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def float64(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def gradients_of(model: nn.Module) -> Gradients:
    """The gradients, and none afterwards."""
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(ours: Gradients, expected: Gradients, tolerance: float, what: str) -> None:
    assert ours.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3, f"{what}: nothing to compare"
    difference, name = max((float((ours[name] - expected[name]).abs().max()), name) for name in expected)
    assert difference < tolerance, f"{what}: the gradient of {name} is off by {difference:.1e}"


# The reference: a response at a time


def plain_logits(model: Transformer, sequence: Sampled, vocab_size: int) -> Tensor:
    """Logits (n, V) from which each token of the response was chosen."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]])
    return model(ids)[0, len(sequence.prompt_ids) - 1 : -1, :vocab_size]


def plain_logprobs(logits: Tensor, sequence: Sampled) -> Tensor:
    return logits.log_softmax(-1)[range(len(sequence.response_ids)), sequence.response_ids]


def plain_support(logits: Tensor, config: PpoConfig) -> Tensor:
    """Which tokens could be drawn (n, V)."""
    if config.rollout.top_p == 1:
        return torch.ones_like(logits, dtype=torch.bool)
    return token_probabilities(logits, config.rollout.temperature, config.rollout.top_p, 0) > 0


def plain_values(model: ScalarModel, sequence: Sampled) -> Tensor:
    """What is expected before each token of the response: the first is judged against the prompt's last place."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]])
    return model(ids)[0, len(sequence.prompt_ids) - 1 : -1]


def plain_experience(
    config: PpoConfig, models: Models, sequences: list[Sampled], vocab_size: int
) -> dict[str, list[list[float]]]:
    """`old_logprobs`, `old_values`, `returns` and `advantages` of each response; its KL under `kl`."""
    rollout = config.rollout
    found: dict[str, list[Any]] = {"old_logprobs": [], "old_values": [], "returns": [], "advantages": [], "kl": []}
    scores = [
        models.reward_model(torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]]))[0, -1].item()
        for sequence in sequences
    ]
    for sequence, score in zip(sequences, scores, strict=True):
        logits, reference = (
            plain_logits(model, sequence, vocab_size).detach() / rollout.temperature
            for model in (models.policy, models.reference)
        )
        support = plain_support(logits * rollout.temperature, config)
        found["old_logprobs"].append(plain_logprobs(logits.masked_fill(~support, -math.inf), sequence).tolist())
        kl = (plain_logprobs(logits, sequence) - plain_logprobs(reference, sequence)).tolist()
        rewards = [-config.kl_coef * nats for nats in kl]
        rewards[-1] += score - sum(scores) / len(scores)
        if sequence.finish_reason == "length":
            rewards[-1] -= config.missing_end_penalty
        values = plain_values(models.value_model, sequence).tolist()
        following = [*values[1:], 0.0]
        surprises = [r + config.gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
        weight = config.gamma * config.lam
        advantages = [
            math.fsum(weight**later * surprise for later, surprise in enumerate(surprises[token:]))
            for token in range(len(surprises))
        ]
        found["old_values"].append(values)
        found["advantages"].append(advantages)
        found["returns"].append([a + v for a, v in zip(advantages, values, strict=True)])
        found["kl"].append([sum(kl)])
    everything = np.concatenate(found["advantages"])
    mean, deviation = everything.mean(), np.sqrt(everything.var() + 1e-8)
    found["advantages"] = [[(a - mean) / deviation for a in response] for response in found["advantages"]]
    return found


def plain_losses(
    config: PpoConfig, models: Models, before: Models, sequences: list[Sampled], vocab_size: int
) -> dict[str, Tensor]:
    """Losses of `policy` and `value` over responses that `before` drew and scored: means over all tokens."""
    known = plain_experience(config, before, sequences, vocab_size)
    policy_loss, value_loss = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for number, sequence in enumerate(sequences):
        old_logprobs, old_values, returns, advantages = (
            float64(known[name][number]) for name in ("old_logprobs", "old_values", "returns", "advantages")
        )
        support = plain_support(plain_logits(before.policy, sequence, vocab_size), config)
        logits = plain_logits(models.policy, sequence, vocab_size) / config.rollout.temperature
        ratio = (plain_logprobs(logits.masked_fill(~support, -math.inf), sequence) - old_logprobs).exp()
        clipped = ratio.clamp(1 - config.cliprange, 1 + config.cliprange)
        policy_loss = policy_loss - torch.minimum(ratio * advantages, clipped * advantages).sum()
        values = plain_values(models.value_model, sequence)
        near = old_values + (values - old_values).clamp(-config.value_cliprange, config.value_cliprange)
        value_loss = value_loss + torch.maximum((values - returns) ** 2, (near - returns) ** 2).sum() / 2
    num_tokens = sum(len(sequence.response_ids) for sequence in sequences)
    return {"policy": policy_loss / num_tokens, "value": value_loss / num_tokens}


# What a step learns from

LAYOUTS: dict[str, dict[str, Any]] = {
    "two rows at once": {},
    "a prompt a row": {"responses_per_query": 1, "sequence_length": 48, "micro_batch_size": 1},
    "a response a row": {"responses_per_query": 3, "sequence_length": 44, "micro_batch_size": 3},
    "long rows": {"queries": 3, "sequence_length": 128, "micro_batch_size": 8},
    "minibatches": {"queries": 6, "minibatches": 3, "sequence_length": 100},
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


@layouts
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_r06_the_first_ratio_is_1_whatever_was_drawn_how(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, temperature: float, top_p: float, layout: dict[str, Any]
) -> None:
    config = tiny_ppo(temperature=temperature, top_p=top_p, **layout)
    models = models_of(config)
    sequences = drawn(config, models, tiny_tokenizer)
    experience = scored(config, models, sequences, tiny_tokenizer)
    for minibatch in experience.minibatches:
        figures = policy_gradient(models, minibatch, config, tiny_tokenizer.vocab_size)
        assert figures["ratio_furthest_from_1"] < 1e-5
        assert figures["clipfrac"] == 0
    for ours, sequence in zip(by_response(experience, "old_logprobs"), sequences, strict=True):
        np.testing.assert_allclose(
            ours, sequence.logprobs, atol=1e-4, err_msg="log probabilities in training and when drawing differ"
        )


@layouts
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.8, 1.0), (1.4, 0.5)])
def test_a_step_learns_from_what_plain_python_finds(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, temperature: float, top_p: float, layout: dict[str, Any]
) -> None:
    """With a policy that has left the reference, and float64 throughout."""
    config = tiny_ppo(
        temperature=temperature, top_p=top_p, gamma=0.97, lam=0.9, kl_coef=0.3, missing_end_penalty=0.75, **layout
    )
    models = models_of(config, torch.float64)
    move(models.policy, 0.05)
    sequences = drawn(config, models, tiny_tokenizer)
    experience = scored(config, models, sequences, tiny_tokenizer)
    expected = plain_experience(config, models, sequences, tiny_tokenizer.vocab_size)
    for name in ("old_logprobs", "old_values", "returns", "advantages"):
        for number, (ours, theirs) in enumerate(zip(by_response(experience, name), expected[name], strict=True)):
            np.testing.assert_allclose(ours, theirs, atol=1e-9, err_msg=f"{name} of response {number}")
    np.testing.assert_allclose(experience.kl, np.concatenate(expected["kl"]), atol=1e-9, err_msg="kl")
    assert min(experience.kl.abs()) > 1e-3, "the policy is still the reference"


@layouts
@pytest.mark.parametrize("unused_rows", [False, True])
def test_losses_and_gradients_are_those_of_plain_python_in_every_layout(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, layout: dict[str, Any], unused_rows: bool
) -> None:
    """Row length, unused rows and micro-batches change nothing: all layouts equal one response at a time."""
    config = tiny_ppo(cliprange=0.1, value_cliprange=0.1, **layout)
    before, models = (models_of(config, torch.float64) for _ in range(2))
    before.policy_forward.compiled = unused_rows  # compiled code alone gets them
    sequences = drawn(config, before, tiny_tokenizer)
    experience = scored(config, before, sequences, tiny_tokenizer)
    for model in (models.policy, models.value_model):
        move(model, 0.01)
    whole = plain_losses(config, models, before, sequences, tiny_tokenizer.vocab_size)
    for loss in whole.values():
        loss.backward()
    expected = [gradients_of(model) for model in (models.policy, models.value_model)]
    minibatch = [micro for minibatch in experience.minibatches for micro in minibatch]
    policy = policy_gradient(models, minibatch, config, tiny_tokenizer.vocab_size)
    value = value_gradient(models, minibatch, config)
    assert policy["loss"] == pytest.approx(whole["policy"].item(), abs=1e-10)
    assert value["loss"] == pytest.approx(whole["value"].item(), abs=1e-10)
    assert 0 < policy["clipfrac"] < 1, "no token, or every token, is cut off by the clip"
    assert 0 < value["clipfrac"] < 1
    assert_same_gradients(gradients_of(models.policy), expected[0], 1e-10, "policy")
    assert_same_gradients(gradients_of(models.value_model), expected[1], 1e-10, "value model")


def test_the_tiny_policy_ends_some_answers_and_not_others(tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer) -> None:
    """Without this the tests here would not notice what becomes of the one kind or the other."""
    config = tiny_ppo()
    ends = {sequence.finish_reason for sequence in drawn(config, models_of(config), tiny_tokenizer)}
    assert ends == {"stop", "length"}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_r06_a_policy_that_is_its_reference_has_a_kl_of_exactly_0(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, temperature: float, bf16: bool
) -> None:
    config = tiny_ppo(temperature=temperature, bf16=bf16)
    models = models_of(config)
    experience = scored(config, models, drawn(config, models, tiny_tokenizer), tiny_tokenizer)
    assert not experience.kl.any(), f"KL of equal models: {experience.kl.tolist()}"
    assert experience.figures["objective/kl"] == 0
    (minibatch,) = experience.minibatches
    figures = policy_gradient(models, minibatch, config, tiny_tokenizer.vocab_size)
    assert figures["ratio_furthest_from_1"] < 1e-5


def test_a_constant_reward_that_was_foreseen_teaches_nothing(tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer) -> None:
    config = tiny_ppo()
    models = models_of(config)
    with torch.no_grad():
        models.value_model.score.weight.zero_()  # less its mean a constant reward is 0
        forget_all_but_the_last_token(models.reward_model)
        models.reward_model.embed_tokens.weight[:] = models.reward_model.embed_tokens.weight[0].clone()
        models.reward_model.score.weight[:, 1:] = 0  # a sum of several numbers has no fixed last bit
    experience = scored(config, models, drawn(config, models, tiny_tokenizer), tiny_tokenizer)
    assert len(set(experience.scores.tolist())) == 1
    assert experience.scores[0] != 0
    for name in ("returns", "advantages"):
        assert not any(map(any, by_response(experience, name))), f"{name} before and after whitening are 0"


def forget_all_but_the_last_token(model: Backbone) -> None:
    """Makes the hidden state of a place a function of the token there."""
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()


# Rewards and values of responses

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "the river"},
    {"role": "user", "content": "so"},
]


def by_hand(prompt: list[int], output_ids: list[int], stop_id: int | None) -> Sampled:
    """A response as the sampler notes it."""
    drawn_ids = [*output_ids, stop_id] if stop_id is not None else output_ids
    return Sampled(
        prompt_ids=prompt,
        generator=torch.Generator(),
        output_ids=output_ids,
        finish_reason="length" if stop_id is None else "stop",
        stop_id=stop_id,
        logprobs=[0.0] * len(drawn_ids),
    )


def test_r03_an_answer_that_was_cut_is_learnt_whole_and_pays_for_its_missing_end(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer
) -> None:
    end = tiny_tokenizer.im_end_id
    prompt, _ = encode_conversation(tiny_tokenizer, TALK, add_generation_prompt=True)
    cut, finished = by_hand(prompt, [40, 41, 42, 43, 44, 45], None), by_hand(prompt, list(range(60, 68)), end)
    config = tiny_ppo(top_p=1.0, sequence_length=128)
    earned = {}
    for penalty in (0.0, 1.5):
        models = models_of(config)
        experience = scored(
            dataclasses.replace(config, missing_end_penalty=penalty), models, [cut, finished], tiny_tokenizer
        )
        ((micro,),) = experience.minibatches
        assert micro.mask.tolist() == [[True] * 6 + [False] * 3, [True] * 9], "the mask is not the answers' own tokens"
        assert micro.rows.tokens.tolist() == [40, 41, 42, 43, 44, 45, *range(60, 68), end], "not what was drawn"
        assert micro.rows.input_ids.flatten()[micro.rows.ends].tolist() == [45, end], "the reward's place"
        # Nothing follows the last token, so its return is what it earns; policy and reference are equal: no KL.
        earned[penalty] = [micro.returns[0, 5].item(), micro.returns[1, 8].item()]
    assert earned[1.5][0] == pytest.approx(earned[0.0][0] - 1.5, abs=1e-6), "the cut answer pays nothing"
    assert earned[1.5][1] == earned[0.0][1], "the finished answer pays too"


def test_what_is_learnt_is_what_was_drawn(tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer) -> None:
    config = tiny_ppo(queries=12, minibatches=3, responses_per_query=3, sequence_length=50)
    models = models_of(config)
    sequences = drawn(config, models, tiny_tokenizer)
    experience = scored(config, models, sequences, tiny_tokenizer)
    micros = [micro for minibatch in experience.minibatches for micro in minibatch]
    learnt = [token for micro in micros for token in micro.rows.tokens.tolist()]
    assert learnt == [token for sequence in sequences for token in sequence.response_ids]
    ends = [micro.rows.input_ids.flatten()[micro.rows.ends].tolist() for micro in micros]
    assert [token for own in ends for token in own] == [sequence.response_ids[-1] for sequence in sequences]
    for sequence in sequences:
        stops = [token in tiny_tokenizer.stop_ids for token in sequence.response_ids]
        assert stops[-1] == (sequence.finish_reason == "stop")
        assert not any(stops[:-1]), "an answer goes on after its end"


def test_r04_the_first_token_of_an_answer_is_judged_against_the_value_of_the_prompt(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value model that says where in its text it stands; two answers of 3 tokens to a prompt of 5."""
    config = tiny_ppo(top_p=1.0)
    models = models_of(config)
    width = models.value_model.config.hidden_size

    def places(rows: BranchedRows) -> Tensor:
        return rows.position_ids[..., None].float() * torch.eye(width)[0]

    monkeypatch.setattr(models.value_forward, "rows", places)
    with torch.no_grad():
        models.value_model.score.weight[:] = torch.eye(width)[0]
    sequences = [by_hand([5, 6, 7, 8, 9], [40, 41, 42], None), by_hand([5, 6, 7, 8, 9], [50, 51], 297)]
    experience = scored(config, models, sequences, tiny_tokenizer)
    assert by_response(experience, "old_values") == [[4, 5, 6]] * 2
    (minibatch,) = experience.minibatches
    errors = [
        (value - target) ** 2 / 2
        for response in by_response(experience, "returns")
        for value, target in zip((4, 5, 6), response, strict=True)
    ]
    assert value_gradient(models, minibatch, config)["loss"] == pytest.approx(sum(errors) / 6, rel=1e-6)


# The pretraining gradient


def documents(num_documents: int) -> list[MicroBatch]:
    """Texts of several lengths, each a micro-batch."""
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(0, 300, (1, 12 + 7 * number), generator=generator) for number in range(num_documents)]
    return [MicroBatch(input_ids=text[:, :-1], labels=text[:, 1:]) for text in texts]


def plain_language_model_loss(model: Transformer, batch: list[MicroBatch]) -> Tensor:
    """Mean over all tokens of all texts."""
    losses = [nn.functional.cross_entropy(model(text.input_ids)[0], text.labels[0], reduction="none") for text in batch]
    return torch.cat(losses).mean()


def test_r10_the_pretraining_gradient_is_the_plain_mean_times_its_coefficient(
    tiny_ppo: MakeConfig, tiny_tokenizer: Tokenizer
) -> None:
    config = tiny_ppo()
    models = models_of(config, torch.float64)
    ((*minibatch,),) = scored(config, models, drawn(config, models, tiny_tokenizer), tiny_tokenizer).minibatches
    policy = models.policy
    loss_function = LossFunction(policy, Forward(policy, compiled=False, bf16=False))

    def of_ppo() -> dict[str, float]:
        return policy_gradient(models, minibatch, config, tiny_tokenizer.vocab_size)

    of_ppo()
    alone = gradients_of(policy)
    for num_documents in (2, 4):
        batch = documents(num_documents)
        plain = plain_language_model_loss(policy, batch)
        plain.backward()
        of_text = gradients_of(policy)
        of_ppo()
        figures = add_pretraining_gradient(policy, loss_function, batch, 0.5)
        expected = {name: gradient + 0.5 * of_text[name] for name, gradient in alone.items()}
        assert_same_gradients(gradients_of(policy), expected, 1e-10, f"both, {num_documents} documents")
        norm = torch.cat([gradient.flatten() for gradient in of_text.values()]).norm().item()
        assert figures["loss"] == pytest.approx(plain.item(), abs=1e-10)
        assert figures["grad_norm"] == pytest.approx(norm, rel=1e-10), "the norm of the text's gradient by itself"
        assert figures["tokens"] == sum(text.labels.numel() for text in batch)
    of_ppo()
    add_pretraining_gradient(policy, loss_function, documents(2), 0.0)
    assert all(gradient.equal(alone[name]) for name, gradient in gradients_of(policy).items()), "a coefficient of 0"


def test_r10_both_losses_are_logged_apart_and_a_coefficient_of_0_leaves_no_trace(
    tiny_ppo: MakeConfig, tiny_shards: Path, tmp_path: Path
) -> None:
    logs, weights = {}, {}
    runs: dict[str, dict[str, Any]] = {
        "without": {},
        "zero": {"pretraining": tiny_shards, "pretrain_coef": 0.0},
        "half": {"pretraining": tiny_shards, "pretrain_coef": 0.5},
    }
    for name, changes in runs.items():
        model = ppo(tiny_ppo(out=tmp_path / name, max_steps=2, **changes))
        weights[name] = load_file(model / "model.safetensors")
        logs[name] = [
            {key: value for key, value in record.items() if not key.startswith("seconds/")}
            for record in read_jsonl(tmp_path / name / "metrics.jsonl")
        ]
    assert logs["zero"] == logs["without"]
    assert all(tensor.equal(weights["without"][key]) for key, tensor in weights["zero"].items())
    first, plain = logs["half"][0], logs["without"][0]
    assert {key: first[key] for key in plain} == plain, "PPO's own figures of the first step know the text's gradient"
    assert first.keys() - plain.keys() == {"pretrain/loss", "pretrain/grad_norm", "pretrain/tokens"}
    assert first["pretrain/tokens"] == 4 * 64
    assert not all(tensor.equal(weights["without"][key]) for key, tensor in weights["half"].items())
