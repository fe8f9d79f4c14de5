"""Accuracies and refusal rates from scripted replies: what counts as right, and what a cut-off reply counts as."""

from types import SimpleNamespace
from typing import Any

import pytest

from danlu.conversations.records import Conversation, Message
from danlu.conversations.skills.safety import ALL_REFUSALS
from danlu.evaluation import skills
from danlu.evaluation.skills import Reply, first_of_each_skill, greedy_replies, refusal_rate, samples, skill_accuracy

REFUSAL = sorted(ALL_REFUSALS)[0]


def conversation(skill: str | None, check: dict[str, Any], reply: str = "x") -> Conversation:
    return Conversation((Message("user", "?"), Message("assistant", reply)), skill, "en", check)


COPIES = [conversation("copy", {"kind": "copy", "text": "lamp"}) for _ in range(4)]
SUM = conversation("addition", {"kind": "sum", "terms": [3, 4]})
HARMFUL = [conversation("harmful", {"kind": "refusal", "category": "c"}) for _ in range(2)]


def ended(*texts: str) -> list[Reply]:
    return [Reply(text, ended=True) for text in texts]


def test_accuracy_is_the_share_of_right_replies_of_each_skill() -> None:
    replies = ended("lamp", " lamp\n", "lamps", "", "7")
    assert skill_accuracy([*COPIES, SUM], replies) == {"addition": 1.0, "copy": 0.5}


def test_the_first_of_each_skill_are_taken_in_order() -> None:
    mixed = [COPIES[0], HARMFUL[0], COPIES[1], SUM, COPIES[2], HARMFUL[1]]
    assert [id(item) for item in first_of_each_skill(mixed, 2)] == [id(mixed[place]) for place in (0, 1, 2, 3, 5)]


def test_a_conversation_without_a_skill_is_counted_as_unnamed() -> None:
    assert skill_accuracy([conversation(None, {"kind": "exact", "answer": "a"})], ended("a")) == {"unnamed": 1.0}


def test_a_reply_that_did_not_end_by_itself_is_never_right() -> None:
    """Even where its text, up to the limit, is the very answer."""
    cut = [Reply("lamp", ended=False)] * 4
    assert skill_accuracy(COPIES, cut) == {"copy": 0.0}
    assert refusal_rate(HARMFUL, [Reply(REFUSAL, ended=False)] * 2, "harmful") == 0.0
    [shown] = samples(COPIES, cut, per_skill=1)
    assert (shown["right"], shown["reply"]) == (False, "lamp …")


def test_the_refusal_rate_looks_at_one_skill_alone() -> None:
    replies = ended(REFUSAL, "Of course!", REFUSAL)
    assert refusal_rate([*HARMFUL, SUM], replies, "harmful") == 0.5
    assert refusal_rate([*HARMFUL, SUM], replies, "harmless") == 0.0


def test_replies_and_conversations_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        skill_accuracy(COPIES, ended("lamp"))


def test_greedy_replies_say_which_ended_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = [SimpleNamespace(output_ids=[1], finish_reason=reason) for reason in ("stop", "length")]
    seen: dict[str, Any] = {}

    def generate_batch(model: Any, stop_ids: Any, prompts: Any, sampling: Any, max_rows: int, vocab_size: int) -> Any:
        seen.update(prompts=prompts, sampling=sampling)
        return scripted

    monkeypatch.setattr(skills, "generate_batch", generate_batch)
    monkeypatch.setattr(skills, "encode_prompt", lambda tokenizer, messages: messages)
    tokenizer: Any = SimpleNamespace(decode=lambda ids: "lamp", stop_ids=(8, 9), vocab_size=10)
    model: Any = None
    assert greedy_replies(model, tokenizer, COPIES[:2], 5) == [Reply("lamp", True), Reply("lamp", False)]
    assert seen["prompts"] == [[{"role": "user", "content": "?"}]] * 2
    assert (seen["sampling"].temperature, seen["sampling"].max_new_tokens) == (0.0, 5)
