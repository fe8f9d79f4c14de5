"""What the tests of models, training and inference share: a tiny tokenizer, tiny shards, tiny models and recipes.

Everything is a function of fixed seeds. One thread a process: the tests run side by side, and sums then have one order.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    import torch

    from danlu.model.config import ModelConfig
    from danlu.model.transformer import Backbone, ScalarModel, Transformer
    from danlu.tokenizer.bpe import Tokenizer
    from danlu.training.ppo_config import PpoConfig

B = TypeVar("B", bound="Backbone")
ENGLISH = "the river was cold and clear so we walked along its bank until she said that it is far".split()  # noqa: SIM905
CHINESE = ["你好", "世界", "今天", "天气", "我们", "学习", "语言", "模型", "，", "。"]


def words(seed: int, num_words: int, chinese: bool) -> str:
    chance = random.Random(seed)
    return ("" if chinese else " ").join(chance.choices(CHINESE if chinese else ENGLISH, k=num_words))


def texts(seed: int, num_documents: int) -> list[tuple[str, str]]:
    """Language and text of documents of 5 to 40 words."""
    chance = random.Random(seed)
    return [
        ("zh" if index % 2 else "en", words(1000 * seed + index, chance.randint(5, 40), bool(index % 2)))
        for index in range(num_documents)
    ]


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 300 ids, trained on the tiny texts."""
    from danlu.tokenizer.bpe import Tokenizer
    from danlu.tokenizer.config import TokenizerConfig
    from danlu.tokenizer.formats import Vocabulary
    from danlu.tokenizer.special import special_tokens
    from danlu.tokenizer.train import learn_ranks

    config = TokenizerConfig(vocab_size=300, num_extra_special=2)
    ranks = learn_ranks([text for _, text in texts(1, 60)], config)
    folder = tmp_path_factory.mktemp("tiny") / "tokenizer"
    Tokenizer(Vocabulary(ranks, special_tokens(len(ranks), config.num_extra_special))).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_folder: Path) -> "Tokenizer":
    from danlu.tokenizer.bpe import Tokenizer

    return Tokenizer.load(tiny_tokenizer_folder)


@pytest.fixture(scope="session")
def tiny_shards(tiny_tokenizer: "Tokenizer", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards `train` (60 documents, several files) and `validation` (8)."""
    from danlu.tokenizer.documents import Document
    from danlu.tokenizer.shards import write_shards

    folder = tmp_path_factory.mktemp("tiny-shards")
    for name, seed, count in (("train", 2, 60), ("validation", 3, 8)):
        documents = [
            Document(f"{seed}-{index}", text, "s", language, 1.0)
            for index, (language, text) in enumerate(texts(seed, count))
        ]
        write_shards(documents, tiny_tokenizer, folder / name, tokens_per_file=1000)
    return folder


@pytest.fixture(scope="session")
def tiny_shape() -> "Callable[..., ModelConfig]":
    """Two layers, width 32; every number can be replaced by name."""
    from danlu.model.config import ModelConfig

    def make(**numbers: Any) -> ModelConfig:
        shape: dict[str, Any] = dict(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
        )
        return ModelConfig(**{**shape, **numbers})

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_shape: "Callable[..., ModelConfig]") -> "Callable[..., Transformer]":
    """A tiny model whose weights, biases and norms all differ from their start, so that each of them matters."""
    import torch

    from danlu.model.transformer import Transformer

    def make(seed: int = 1, dtype: "torch.dtype" = torch.float32, **numbers: Any) -> Transformer:
        return stirred(Transformer(tiny_shape(**numbers)), seed).to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def tiny_scalar_model(tiny_shape: "Callable[..., ModelConfig]") -> "Callable[..., ScalarModel]":
    """The same with one number for a head: a reward model or a value model."""
    import torch

    from danlu.model.transformer import ScalarModel

    def make(seed: int = 1, dtype: "torch.dtype" = torch.float32, **numbers: Any) -> ScalarModel:
        return stirred(ScalarModel(tiny_shape(**numbers)), seed).to(dtype).eval()

    return make


def stirred(model: B, seed: int) -> B:
    """`model` initialised, and every parameter moved by noise."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def tiny_ppo(
    tiny_model: "Callable[..., Transformer]",
    tiny_scalar_model: "Callable[..., ScalarModel]",
    tiny_tokenizer: "Tokenizer",
    tiny_tokenizer_folder: Path,
    write_conversations: Callable[[Path, Sequence[Sequence[tuple[str, str]]]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> "Callable[..., PpoConfig]":
    """Three short PPO steps of a chat model that ends about half of its answers, on 12 prompts; every number can be
    replaced by name, those of the rollout too."""
    import dataclasses

    from danlu.model.checkpoint import save_model
    from danlu.training.ppo_config import PpoConfig, RolloutConfig

    folder = tmp_path_factory.mktemp("tiny-ppo")
    policy = tiny_model(max_position_embeddings=128)
    policy.lm_head.weight.data[tiny_tokenizer.im_end_id] *= 3
    for name, model in {"policy": policy, "reward": tiny_scalar_model(2, max_position_embeddings=128)}.items():
        ids = tiny_tokenizer.stop_ids, tiny_tokenizer.end_of_text_id
        save_model(folder / name, model, tiny_tokenizer_folder, list(ids[0]), ids[1])
    questions = [words(number, 1 + number % 5, chinese=bool(number % 2)) for number in range(12)]
    prompts = write_conversations(folder / "prompts.jsonl", [[("user", question)] for question in questions])
    start = PpoConfig(
        model=folder / "policy",
        reward_model=folder / "reward",
        data=prompts,
        max_steps=3,
        frozen_steps=0,
        rollout=RolloutConfig(queries=4, max_new_tokens=5),
        policy_learning_rate=1e-3,
        value_learning_rate=1e-3,
        pretrain_batch_size=4,
        sequence_length=64,
        micro_batch_size=2,
        bf16=False,
        compile=False,
        device="cpu",
    )

    def make(**numbers: Any) -> PpoConfig:
        of_rollout = {field.name for field in dataclasses.fields(RolloutConfig)} & numbers.keys()
        rollout = dataclasses.replace(start.rollout, **{name: numbers.pop(name) for name in of_rollout})
        return dataclasses.replace(start, rollout=rollout, **numbers)

    return make


@pytest.fixture(scope="session")
def write_conversations() -> Callable[[Path, Sequence[Sequence[tuple[str, str]]]], Path]:
    """Writes conversations, each a sequence of (role, content), as JSON lines; the path."""

    def write(path: Path, conversations: Sequence[Sequence[tuple[str, str]]]) -> Path:
        records = [
            {"messages": [{"role": role, "content": content} for role, content in turns]} for turns in conversations
        ]
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def quick_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares pretraining its measurement of the machine's peak."""
    monkeypatch.setattr("danlu.training.pretrain.gemm_peak_flops", lambda device: 1e9)


@pytest.fixture
def bfloat16_even_in_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 also where the processor has no instructions for them: slow, with the same numbers."""
    for place in ("danlu.run.device", "danlu.model.linear"):
        monkeypatch.setattr(f"{place}.has_bfloat16", lambda kind: True)
