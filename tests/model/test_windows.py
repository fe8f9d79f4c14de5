"""Layers with a window: each query sees so many keys, whichever way a text is read, and no more are kept (M06)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine, generate_batch
from danlu.inference.loglikelihood import loglikelihoods
from danlu.model.attention import attend, band
from danlu.model.checkpoint import load_model, save_model
from danlu.model.extension import ContextExtension
from danlu.model.transformer import Context, Transformer, cache_for
from danlu.run.errors import UserError

MakeModel = Callable[..., Transformer]

WINDOW, PROMPT, STEPS = 8, 20, 12
GREEDY = SamplingConfig(max_new_tokens=STEPS, temperature=0.0)


def some_ids(length: int, seed: int = 5) -> Tensor:
    return torch.randint(0, 300, (1, length), generator=torch.Generator().manual_seed(seed))


def windowed(tiny_model: MakeModel, *windows: int, **numbers: Any) -> Transformer:
    return tiny_model(extension=ContextExtension(windows=windows), num_key_value_heads=2, **numbers)


@torch.no_grad()
def explicit(model: Transformer, ids: Tensor) -> Tensor:
    """The logits by a mask written out for every layer: documents force one, and there is one document."""
    return model(ids, document_ids=torch.ones_like(ids))


@pytest.mark.parametrize("windows", [(8,), (8, 0), (5, 12)])
@pytest.mark.parametrize("cuts", [[20], [7, 14, 20], list(range(1, 21))], ids=["whole", "in sevens", "singly"])
@torch.no_grad()
def test_a_text_read_through_the_cache_gives_the_logits_of_an_explicit_mask(
    tiny_model: MakeModel, windows: tuple[int, ...], cuts: list[int]
) -> None:
    model, ids = windowed(tiny_model, *windows), some_ids(PROMPT + STEPS)
    cache = cache_for(model, 2, 64)
    for stored in (*cache.keys, *cache.values):
        stored.normal_()  # Leftovers of another row.
    parts, start = [], 0
    for end in [*cuts, *range(PROMPT + 1, PROMPT + STEPS + 1)]:
        context = Context(cache, torch.tensor([1]), torch.arange(start, end)[None], end)
        parts.append(model(ids[:, start:end], context=context))
        start = end
    torch.testing.assert_close(torch.cat(parts, dim=1), explicit(model, ids), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_query_sees_its_own_key_and_those_before_it_in_the_window(tiny_model: MakeModel) -> None:
    model, ids = windowed(tiny_model, WINDOW, num_hidden_layers=1), some_ids(PROMPT)
    plain = model(ids)
    seen = []
    for place in range(PROMPT):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % 300
        seen.append(((model(other) - plain).abs().amax(-1)[0] > 1e-6).tolist())
    for place in range(PROMPT):
        assert [query for query in range(PROMPT) if seen[place][query]] == list(range(place, min(place + 8, PROMPT)))


@torch.no_grad()
def test_a_row_keeps_no_more_than_its_window(tiny_model: MakeModel) -> None:
    model = windowed(tiny_model, WINDOW)
    assert [keys.shape[2] for keys in cache_for(model, 1, 64).keys] == [WINDOW + 1] * 2
    assert cache_for(model, 1, 64).num_bytes == cache_for(model, 1, 32_768).num_bytes
    assert [keys.shape[2] for keys in cache_for(windowed(tiny_model, 8, 0), 1, 64).keys] == [9, 64]
    assert [keys.shape[2] for keys in cache_for(model, 1, 8).keys] == [8, 8], "nothing leaves a window so wide"


def greedy(model: Transformer, ids: list[int], count: int) -> list[int]:
    for _ in range(count):
        ids = [*ids, int(explicit(model, torch.tensor([ids]))[0, -1].argmax())]
    return ids[-count:]


@pytest.mark.parametrize("copies", [1, 2])
def test_rows_of_all_lengths_are_continued_as_if_alone(tiny_model: MakeModel, copies: int) -> None:
    model = windowed(tiny_model, WINDOW, 12, max_position_embeddings=64)
    prompts = [some_ids(length, seed=length)[0].tolist() for length in (3, 30, 9, 17, 11)]
    # Read together the short ones are filled up far past their windows.
    rows = generate_batch(model, [], prompts, GREEDY, max_rows=3 * copies, copies=copies)
    expected = [greedy(model, ids, STEPS) for ids in prompts for _ in range(copies)]
    assert [row.output_ids for row in rows] == expected


def test_a_prompt_read_in_pieces_and_a_common_beginning_change_nothing(tiny_model: MakeModel) -> None:
    model = windowed(tiny_model, WINDOW, 12, max_position_embeddings=64)
    ids = some_ids(30)[0].tolist()
    engine = Engine(model, [], GREEDY, max_rows=2)
    pieces = engine.admit_in_pieces(ids, 7)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            (row,) = end.value
            break
    for _ in range(STEPS - 1):
        engine.step()
    assert engine.rows[row].output_ids == greedy(model, ids, STEPS)
    others = [[*ids[:20], *some_ids(4, seed=seed)[0].tolist()] for seed in range(4)]
    rows = generate_batch(model, [], others, GREEDY, max_rows=2, prefix=ids[:20])
    assert [each.output_ids for each in rows] == [greedy(model, other, STEPS) for other in others]


def test_likelihoods_are_those_of_the_explicit_mask(tiny_model: MakeModel) -> None:
    model = windowed(tiny_model, WINDOW, max_position_embeddings=128)
    beginning = some_ids(90)[0].tolist()
    requests = [([*beginning, *some_ids(5, seed=seed)[0].tolist()], [1, 2]) for seed in range(20)]
    found = {number: each.logprob for piece in loglikelihoods(model, requests) for number, each in piece}
    for number, (context, following) in enumerate(requests):
        logits = explicit(model, torch.tensor([[*context, *following]]))[0].log_softmax(-1)
        assert found[number] == pytest.approx(float(logits[-3, 1] + logits[-2, 2]), abs=1e-4)


@pytest.mark.parametrize("length", [5, 16, 17, 40, 64])
def test_blocks_give_what_a_whole_mask_gives(length: int) -> None:
    query, key, value = (torch.randn(2, heads, length, 8) for heads in (4, 2, 2))
    whole = attend(query, key, value, band(length, WINDOW, query.device))
    torch.testing.assert_close(attend(query, key, value, WINDOW), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [40, 1100])
def test_gradients_are_those_of_the_explicit_mask(tiny_model: MakeModel, length: int) -> None:
    model, ids = windowed(tiny_model, 9), some_ids(length)
    gradients = []
    for documents in (None, torch.ones_like(ids)):
        model.zero_grad()
        model(ids, document_ids=documents).float().pow(2).mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["max_window_layers", "layer_types"])
@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_sliding_windows_are_those_of_transformers(tmp_path: Path, family: str, kind: str) -> None:
    torch.manual_seed(3)
    types = {"max_window_layers": 1} if kind == "max_window_layers" else {
        "layer_types": ["sliding_attention", "full_attention"]
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3,
        use_sliding_window=True, sliding_window=WINDOW, **types,
    )  # fmt: skip
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    assert ours.config.layer_windows == ((0, 8) if kind == "max_window_layers" else (8, 0))
    for length in (5, 8, 9, 40):
        with torch.no_grad():
            reference = theirs(some_ids(length)).logits
            torch.testing.assert_close(ours(some_ids(length)), reference, rtol=0, atol=2e-5)
    ids = some_ids(PROMPT)
    said = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False)
    (row,) = generate_batch(ours, [], [ids[0].tolist()], GREEDY)
    assert row.output_ids == said[0, PROMPT:].tolist()
    save_model(tmp_path / "ours", ours, None, [1], 1)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, theirs(ids).logits, rtol=0, atol=2e-5)


def test_windows_grow_with_depth_by_an_equal_factor() -> None:
    assert ContextExtension(windows=(100, 800)).layer_windows(4) == (100, 200, 400, 800)
    assert ContextExtension(windows=(64,)).layer_windows(3) == (64, 64, 64)
    assert ContextExtension(windows=(64, 0, 32)).layer_windows(3) == (64, 0, 32)
    assert ContextExtension().layer_windows(2) == (0, 0)
    with pytest.raises(ValueError, match="one for each of the 1 layers"):
        ContextExtension(windows=(8, 16)).layer_windows(1)
    for windows in ((64, 0), (1, 2, 3)):
        with pytest.raises(ValueError, match="one for each of the 4 layers"):
            ContextExtension(windows=windows).layer_windows(4)


def test_what_config_json_cannot_say_is_refused(tiny_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no word for windows of several sizes"):
        save_model(tmp_path / "m", windowed(tiny_model, 8, 12), None, [1], 1)
    with pytest.raises(UserError, match="no word for windows"):
        save_model(tmp_path / "m", windowed(tiny_model, 8, family="Llama"), None, [1], 1)


@torch.no_grad()
def test_alpha_may_change_while_decoding_where_keys_are_turned_late(tiny_model: MakeModel) -> None:
    extension = ContextExtension(training_length=8, dynamic_ntk=True, dynamic_ntk_per_step=True, logn=True)
    # Of one layer: further up a token's key was made of what its own alpha gave below.
    shape = {"max_position_embeddings": 64, "num_hidden_layers": 1}
    model = tiny_model(extension=extension, **shape)
    prompts = [some_ids(length, seed=length)[0].tolist() for length in (5, 12, 30)]
    rows = generate_batch(model, [], prompts, SamplingConfig(max_new_tokens=30, temperature=0.0), max_rows=3)
    for prompt, row in zip(prompts, rows, strict=True):
        ids = list(prompt)
        for token in row.output_ids:
            # Without a cache alpha is that of the whole text every time.
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)
    kept = tiny_model(extension=replace(extension, dynamic_ntk_per_step=False), **shape)
    as_published = generate_batch(kept, [], prompts, SamplingConfig(max_new_tokens=30, temperature=0.0), max_rows=3)
    assert [row.output_ids for row in as_published] != [row.output_ids for row in rows]


def test_keys_turned_late_need_a_reason() -> None:
    with pytest.raises(ValueError, match="dynamic_ntk_per_step needs dynamic_ntk"):
        ContextExtension(dynamic_ntk_per_step=True)
