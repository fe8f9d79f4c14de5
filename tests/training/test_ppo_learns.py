"""PPO reaches what is known to be best: toys whose optimum has a closed form.

What PPO seeks for a prompt is the largest J(p) = E_p[reward] - kl_coef * KL(p, reference) over the responses y. The
best is p(y) = reference(y) * exp(reward(y) / kl_coef) / Z with J = kl_coef * log Z, Z being the reference's mean of
exp(reward / kl_coef). All responses are enumerated here, so J is exact for the optimum, the reference and what was
learnt. The share of the optimum is (J - J of the reference) / (J of the optimum - J of the reference), sums over the
prompts: 0 for having learnt nothing, 1 for the best there is.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danlu.model.checkpoint import load_model, load_reward_model, save_model
from danlu.model.transformer import Backbone, ScalarModel, Transformer
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.ppo import encode_prompts, ppo
from danlu.training.ppo_config import PpoConfig, RolloutConfig

QUESTIONS = ["hi", "so", "the river", "你好"]
LETTERS = [ord(letter) for letter in "abcde"]
LONGEST = 3
SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])

MakeModel = Callable[..., Transformer]
MakeScalarModel = Callable[..., ScalarModel]


@dataclass(frozen=True)
class Toy:
    """A run's configuration, its prompts, and every response that can be given."""

    config: PpoConfig
    prompts: list[list[int]]
    responses: list[list[int]]

    def by_length(self, prompt: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The responses of each length: texts (Y, T) with the prompt before them, tokens (Y, n)."""
        for _, group in itertools.groupby(sorted(self.responses, key=len), key=len):
            tokens = torch.tensor(list(group))
            yield torch.cat((torch.tensor(prompt).expand(len(tokens), -1), tokens), dim=1), tokens

    def logprobs(self, model: Transformer, prompt: list[int]) -> Tensor:
        """log probability (Y) of every response at the run's temperature."""
        found = []
        for texts, tokens in self.by_length(prompt):
            logits = model(texts)[:, len(prompt) - 1 : -1].double() / self.config.rollout.temperature  # (Y, n, V)
            found.append(logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].sum(-1))
        return torch.cat(found)

    def rewards(self, model: ScalarModel, prompt: list[int]) -> Tensor:
        """What every response (Y) is worth."""
        return torch.cat([model(texts)[:, -1].double() for texts, _ in self.by_length(prompt)])


@dataclass(frozen=True)
class Judgement:
    """What a run has made of a toy; KL in nats, means over the prompts."""

    share: float
    kl: float
    kl_of_optimum: float


def learn(toy: Toy, out: Path, **changes: Any) -> Judgement:
    """Run PPO on the toy, and judge the policy it hands on."""
    toy = replace(toy, config=replace(toy.config, out=out, **changes))
    return judge(toy, ppo(toy.config))


@torch.no_grad()
def judge(toy: Toy, policy: Path) -> Judgement:
    learnt, reference = load_model(policy), load_model(toy.config.model)
    reward_model = load_reward_model(toy.config.reward_model)
    kl_coef, gained, possible = toy.config.kl_coef, 0.0, 0.0
    kls = []
    for prompt in toy.prompts:
        rewards = toy.rewards(reward_model, prompt)
        log_q, log_p = toy.logprobs(reference, prompt), toy.logprobs(learnt, prompt)
        for logprobs in (log_q, log_p):
            assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-4), "these are not all responses"
        best = kl_coef * (log_q + rewards / kl_coef).logsumexp(0)
        log_best = log_q + (rewards - best) / kl_coef
        kls.append([(one.exp() @ (one - log_q)).item() for one in (log_p, log_best)])
        start = log_q.exp() @ rewards
        gained += (log_p.exp() @ rewards - kl_coef * kls[-1][0] - start).item()
        possible += (best - start).item()
    kl, kl_of_optimum = torch.tensor(kls).mean(0).tolist()
    return Judgement(gained / possible, kl, kl_of_optimum)


# Models set by hand


def hold_still(model: Backbone) -> None:
    """Blocks that add nothing, norms that scale nothing."""
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "bias")):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)


@torch.no_grad()
def reward_last_token(model: ScalarModel, worth: Tensor) -> None:
    """Make the reward of a text the `worth` (V), between -1 and 1, of its last token."""
    hold_still(model)
    width = model.config.hidden_size
    model.embed_tokens.weight.zero_()
    # Two numbers whose squares add up to the width: the norm leaves them as they are.
    model.embed_tokens.weight[:, 0] = worth
    model.embed_tokens.weight[:, 1] = (width - worth.square()).sqrt()
    model.score.weight[:] = torch.eye(width)[0]


@torch.no_grad()
def reward_every_token(model: ScalarModel, worth: dict[int, float], scale: float) -> None:
    """Make the reward of a text about `scale` times the mean worth of its tokens, which attention takes."""
    hold_still(model)
    width = model.config.hidden_size
    model.embed_tokens.weight.zero_()
    model.embed_tokens.weight[:, 0] = width**0.5
    for token, number in worth.items():
        model.embed_tokens.weight[token, 1] = number
    attention = model.layers[0].self_attn
    attention.qkv_proj.weight.zero_()  # queries and keys of 0 look everywhere alike
    attention.qkv_proj.weight[2 * width, 1] = 1
    attention.o_proj.weight[2, 0] = 1
    model.score.weight[:] = scale * torch.eye(width)[2]


@torch.no_grad()
def speak_only(policy: Transformer, tokens: list[int]) -> None:
    """Make all other tokens unlikely, by a number that is about the same in every state."""
    policy.embed_tokens.weight[:, 0] = 6
    policy.lm_head.weight *= 2
    policy.lm_head.weight[:, 0] = -10
    policy.lm_head.weight[tokens, 0] = 0


def save_toy(
    config: PpoConfig,
    policy: Transformer,
    reward_model: ScalarModel,
    responses: list[list[int]],
    tokenizer_folder: Path,
) -> Toy:
    tokenizer = Tokenizer.load(tokenizer_folder)
    config = replace(config, model=config.out / "policy", reward_model=config.out / "reward")
    for folder, model in {config.model: policy, config.reward_model: reward_model}.items():
        save_model(folder, model, tokenizer_folder, list(tokenizer.stop_ids), tokenizer.end_of_text_id)
    return Toy(config, encode_prompts(config, tokenizer)[0], responses)


@pytest.fixture(scope="module")
def config(write_conversations: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> PpoConfig:
    """Without weight decay and with the whole vocabulary, since both would move the optimum."""
    folder = tmp_path_factory.mktemp("toys")
    return PpoConfig(
        data=write_conversations(folder / "prompts.jsonl", [[("user", question)] for question in QUESTIONS]),
        out=folder,
        frozen_steps=2,
        rollout=RolloutConfig(queries=len(QUESTIONS), responses_per_query=32, top_p=1.0),
        optimizer=OptimizerConfig(weight_decay=0.0),
        policy_learning_rate=3e-3,
        value_learning_rate=1e-2,
        kl_coef=0.5,
        bf16=False,
        compile=False,
        device="cpu",
    )


@pytest.fixture(scope="module")
def one_token(
    config: PpoConfig, tiny_model: MakeModel, tiny_scalar_model: MakeScalarModel, tiny_tokenizer_folder: Path
) -> Toy:
    """A response is one token of 300, each with a worth of its own."""
    config = replace(
        config,
        out=config.out / "one",
        rollout=replace(config.rollout, max_new_tokens=1, responses_per_query=48),
        max_steps=60,
        sequence_length=96,  # a prompt in a row
        micro_batch_size=4,
    )
    shape = {"max_position_embeddings": 256, "num_hidden_layers": 1}
    policy, reward_model = tiny_model(**shape), tiny_scalar_model(**shape)
    reward_last_token(reward_model, 2 * torch.rand(300, generator=torch.Generator().manual_seed(1)) - 1)
    return save_toy(config, policy, reward_model, [[token] for token in range(300)], tiny_tokenizer_folder)


@pytest.fixture(scope="module")
def three_tokens(
    config: PpoConfig, tiny_model: MakeModel, tiny_scalar_model: MakeScalarModel, tiny_tokenizer_folder: Path
) -> Toy:
    """A response is up to three of five letters and an end; the reward, given at its last token, is made of all.

    Drawn and learnt at a temperature other than 1: the optimum is that of the policy at this temperature.
    """
    end = Tokenizer.load(tiny_tokenizer_folder).im_end_id
    config = replace(
        config,
        out=config.out / "three",
        rollout=replace(config.rollout, max_new_tokens=LONGEST, temperature=0.8),
        max_steps=50,
        sequence_length=128,  # a prompt in a row
        micro_batch_size=4,
    )
    shape = {"max_position_embeddings": 256, "num_hidden_layers": 1}
    policy, reward_model = tiny_model(**shape), tiny_scalar_model(**shape)
    speak_only(policy, [*LETTERS, end])
    reward_every_token(reward_model, {ord("a"): 1.0, ord("b"): -1.0, ord("c"): 0.5}, scale=30)
    spoken = [[*letters, end] for length in range(LONGEST) for letters in itertools.product(LETTERS, repeat=length)]
    spoken += map(list, itertools.product(LETTERS, repeat=LONGEST))
    return save_toy(config, policy, reward_model, spoken, tiny_tokenizer_folder)


# What is learnt


def test_the_measure_is_0_for_the_reference(one_token: Toy, three_tokens: Toy) -> None:
    for toy in (one_token, three_tokens):
        judgement = judge(toy, toy.config.model)
        assert judgement.share == pytest.approx(0, abs=1e-9)
        assert judgement.kl == 0
        assert judgement.kl_of_optimum > 0.4, "there is little to learn"


@SEEDS
def test_the_best_choice_of_one_token_is_found(one_token: Toy, tmp_path: Path, seed: int) -> None:
    assert learn(one_token, tmp_path, seed=seed).share > 0.95


@SEEDS
def test_the_best_choice_of_several_tokens_is_found_from_a_reward_at_the_last(
    three_tokens: Toy, tmp_path: Path, seed: int
) -> None:
    assert learn(three_tokens, tmp_path, seed=seed).share > 0.95


def test_the_final_kl_falls_as_its_coefficient_rises(one_token: Toy, tmp_path: Path) -> None:
    found = [learn(one_token, tmp_path / str(kl_coef), kl_coef=kl_coef, max_steps=30) for kl_coef in (0.05, 0.5, 2.0)]
    low, middle, high = (judgement.kl for judgement in found)
    assert low > 2 * middle > 4 * high, f"KL {[judgement.kl for judgement in found]}"
    assert high == pytest.approx(found[2].kl_of_optimum, abs=0.05), "a high price leaves the policy near the reference"
