"""The win rate counts as it says, and its KL is that of plain passes over each answer."""

from collections.abc import Callable, Sequence

import pytest
import torch

from danlu.conversations.records import Conversation, Message
from danlu.evaluation import win_rate as module
from danlu.evaluation.win_rate import response_kl, win_rate
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Sequence as Sampled
from danlu.model.transformer import Transformer
from danlu.tokenizer.bpe import Tokenizer

MakeModel = Callable[..., Transformer]

SAMPLING = SamplingConfig(max_new_tokens=8, temperature=1.5, top_p=0.9, seed=1)


def asked(number: int, skill: str) -> Conversation:
    messages = (Message("user", f"say cold {number}"), Message("assistant", "cold"))
    return Conversation(messages, skill, "en", {"kind": "exact", "answer": "cold"})


SPLITS = {"test": [asked(0, "say"), asked(1, "say"), asked(2, "sing")], "unseen": [asked(3, "sing")]}
BEFORE = {"test": ["bank", "cold", "cold"], "unseen": ["bank"]}
AFTER = {"test": ["cold", "cold", "bank"], "unseen": ["cold"]}
"""A win, a tie of two right answers, a loss; a win."""


def sampled(tokenizer: Tokenizer, prompt: str, reply: str, ended: bool = True) -> Sampled:
    return Sampled(
        prompt_ids=tokenizer.encode(prompt),
        generator=torch.Generator(),
        output_ids=tokenizer.encode(reply),
        finish_reason="stop" if ended else "length",
        stop_id=tokenizer.im_end_id if ended else None,
    )


@pytest.fixture(scope="module")
def models(tiny_model: MakeModel) -> tuple[Transformer, Transformer]:
    before, after = tiny_model(), tiny_model()
    with torch.no_grad():
        after.lm_head.weight.add_(torch.randn(after.lm_head.weight.shape, generator=torch.Generator().manual_seed(2)))
    return before, after


def test_wins_ties_and_losses_are_counted_for_the_second_model(
    models: tuple[Transformer, Transformer], tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = models
    said = {id(before): iter(BEFORE.values()), id(after): iter(AFTER.values())}
    seen: list[SamplingConfig] = []

    def scripted(
        model: Transformer, tokenizer: Tokenizer, items: Sequence[Conversation], sampling: SamplingConfig
    ) -> list[Sampled]:
        seen.append(sampling)
        replies = next(said[id(model)])
        return [sampled(tokenizer, item.messages[0].content, reply) for item, reply in zip(items, replies, strict=True)]

    monkeypatch.setattr(module, "sample_replies", scripted)
    figures = win_rate(before, after, tiny_tokenizer, SPLITS, SAMPLING)
    assert figures["prompts"] == 4
    assert figures["win_rate"]["value"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert figures["win_rate"]["low"] < figures["win_rate"]["value"] < figures["win_rate"]["high"]
    assert {name: row["value"] for name, row in figures["win_rate_by_split"].items()} == {"test": 0.5, "unseen": 1.0}
    assert {name: row["value"] for name, row in figures["win_rate_by_skill"].items()} == {"say": 0.75, "sing": 0.5}
    assert figures["sampled_accuracy"] == {"before": 0.5, "after": 0.75}
    assert set(map(id, seen)) == {id(SAMPLING)}, "both models answer by the same sampling"
    answers = [sampled(tiny_tokenizer, item.messages[0].content, reply)
               for name, items in SPLITS.items() for item, reply in zip(items, AFTER[name], strict=True)]  # fmt: skip
    expected = response_kl(after, before, answers, 1.5, tiny_tokenizer.vocab_size)
    assert figures["kl"] == pytest.approx(sum(expected) / 4)


def test_an_answer_cut_off_is_no_win(
    models: tuple[Transformer, Transformer], tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = models
    monkeypatch.setattr(
        module,
        "sample_replies",
        lambda model, tokenizer, items, _: [sampled(tokenizer, "so", "cold", ended=model is before) for _ in items],
    )
    assert win_rate(before, after, tiny_tokenizer, SPLITS, SAMPLING)["win_rate"]["value"] == 0.0


def test_the_kl_is_that_of_plain_passes_in_float64(
    models: tuple[Transformer, Transformer], tiny_tokenizer: Tokenizer
) -> None:
    before, after = models
    answers = [
        sampled(tiny_tokenizer, "the river was cold", "how many miles"),
        sampled(tiny_tokenizer, "so", "cold", ended=False),
        sampled(tiny_tokenizer, "today the world", ""),
    ]
    found = response_kl(after, before, answers, 1.5, tiny_tokenizer.vocab_size)
    for answer, value in zip(answers, found, strict=True):
        ids = torch.tensor([[*answer.prompt_ids, *answer.response_ids]])
        with torch.no_grad():
            new, old = (
                (model(ids)[0, len(answer.prompt_ids) - 1 : -1, : tiny_tokenizer.vocab_size].double() / 1.5)
                for model in (after, before)
            )
        new, old = new.log_softmax(-1), old.log_softmax(-1)
        assert value == pytest.approx((new.exp() * (new - old)).sum().item(), rel=1e-4)
        assert value > 0.1, "models that hardly differ would show nothing"
    assert response_kl(after, after, answers, 1.5, tiny_tokenizer.vocab_size) == [0.0, 0.0, 0.0]
