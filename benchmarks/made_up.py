"""Models of random weights, comparisons and prompts of made-up words, for benchmarks without a finished run."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch

from danlu.model.checkpoint import load_with_new_score, save_model
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.config import TokenizerConfig
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.special import special_tokens
from danlu.tokenizer.train import learn_ranks

VOCABULARY = TokenizerConfig(vocab_size=4096, num_extra_special=5)

SHAPES = {
    "demo": ModelConfig(
        vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=256,
    ),
    "larger": ModelConfig(
        vocab_size=4096, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=256,
    ),
}  # fmt: skip
"""`demo` is that of recipes/demo.toml."""


def made_up_words(seed: int) -> Iterator[str]:
    """Words of one to four syllables, without end."""
    chance = Random(seed)
    syllables = [consonant + vowel for consonant in "bdfghklmnprstvwz" for vowel in ("a", "e", "i", "o", "u", "ou")]
    while True:
        yield "".join(chance.choices(syllables, k=chance.randint(1, 4)))


def write_language_model(folder: Path, shape: ModelConfig) -> None:
    """A model folder of random weights with a tokenizer of made-up words."""
    words = made_up_words(1)
    ranks = learn_ranks([" ".join(next(words) for _ in range(20)) for _ in range(5000)], VOCABULARY)
    tokenizer = Tokenizer(Vocabulary(ranks, special_tokens(len(ranks), VOCABULARY.num_extra_special)))
    tokenizer.save(folder / "tokenizer")
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(1))
    end_ids = list(tokenizer.stop_ids)
    save_model(folder / "model", model, folder / "tokenizer", end_ids, tokenizer.end_of_text_id)


def write_reward_model(folder: Path, language_model: Path) -> None:
    """A reward model's folder: the blocks of `language_model` under a head of random weights."""
    tokenizer = Tokenizer.load(language_model)
    model = load_with_new_score(language_model, torch.Generator().manual_seed(1))
    save_model(folder, model, language_model, list(tokenizer.stop_ids), tokenizer.end_of_text_id)


def write_comparisons(path: Path, count: int) -> None:
    """Comparisons, one of each prompt: the right reply repeats the prompt's words, the wrong one misses the last."""
    words, chance, seen = made_up_words(2), Random(2), set()
    with path.open("w", encoding="utf-8") as file:
        while len(seen) < count:
            said = [next(words) for _ in range(chance.randint(1, 6))]
            if tuple(said) in seen:
                continue
            seen.add(tuple(said))
            messages = [{"role": "user", "content": "Repeat:\n" + " ".join(said)}]
            wrong = " ".join([*said[:-1], next(words) + "x"])
            record = {"messages": messages, "chosen": " ".join(said), "rejected": wrong}
            file.write(json.dumps(record) + "\n")


def write_prompts(path: Path, count: int) -> None:
    """Prompts: the turns of comparisons."""
    write_comparisons(path, count)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(json.dumps({"messages": json.loads(line)["messages"]}) + "\n" for line in lines))


def first_prompts(source: Path, target: Path, count: int) -> None:
    """The first comparison of each of the first `count` prompts of a file, or of all where it has fewer."""
    seen: set[str] = set()
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as kept:
        for line in lines:
            prompt = json.dumps(json.loads(line)["messages"])
            if prompt not in seen and len(seen) < count:
                seen.add(prompt)
                kept.write(line)


def first_lines(source: Path, path: Path, count: int) -> None:
    """The first `count` lines of a file: so that no side reads data that it does not use."""
    with source.open(encoding="utf-8") as lines, path.open("w", encoding="utf-8") as file:
        file.writelines(line for line, _ in zip(lines, range(count), strict=False))
