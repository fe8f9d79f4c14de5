"""Checked accuracy per skill: greedy replies to conversations not trained on, judged by a program.

In: a model and generated conversations with their checks. Out: shares of right replies, and samples.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.conversations.checkers import check_reply, is_refusal
from danlu.conversations.records import Conversation
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Sequence as Generated
from danlu.inference.engine import generate_batch
from danlu.inference.generate import encode_prompt
from danlu.model.transformer import Transformer
from danlu.tokenizer.bpe import Tokenizer

ROWS_AT_ONCE = 128
"""Prompts answered side by side. Our choice: on two cores a step of 128 rows takes little longer than one of 64."""


@dataclass(frozen=True)
class Reply:
    """What the model said, and whether it ended by itself: a reply cut off at the limit never counts as right."""

    text: str
    ended: bool


def is_right(conversation: Conversation, reply: Reply) -> bool:
    """Whether the reply ended by itself and is a right one."""
    return reply.ended and check_reply(conversation, reply.text)


def first_of_each_skill(conversations: Sequence[Conversation], count: int) -> list[Conversation]:
    """The first `count` conversations of each skill and language, in order."""
    met: Counter[tuple[str | None, str | None]] = Counter()
    kept = []
    for conversation in conversations:
        kind = conversation.skill, conversation.language
        met[kind] += 1
        if met[kind] <= count:
            kept.append(conversation)
    return kept


def greedy_replies(
    model: Transformer, tokenizer: Tokenizer, conversations: Sequence[Conversation], max_new_tokens: int
) -> list[Reply]:
    """The model's greedy reply to each conversation's prompt, at most `max_new_tokens` long."""
    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=0.0)
    return replies_of(tokenizer, sample_replies(model, tokenizer, conversations, sampling))


def sample_replies(
    model: Transformer, tokenizer: Tokenizer, conversations: Sequence[Conversation], sampling: SamplingConfig
) -> list[Generated]:
    """What the model says to each conversation's prompt, as ids."""
    prompts = [
        encode_prompt(tokenizer, [{"role": turn.role, "content": turn.content} for turn in conversation.prompt])
        for conversation in conversations
    ]
    return generate_batch(
        model, tokenizer.stop_ids, prompts, sampling, max_rows=ROWS_AT_ONCE, vocab_size=tokenizer.vocab_size
    )


def replies_of(tokenizer: Tokenizer, sequences: Sequence[Generated]) -> list[Reply]:
    """The ids as text."""
    return [
        Reply(tokenizer.decode(sequence.output_ids), ended=sequence.finish_reason == "stop") for sequence in sequences
    ]


def skill_accuracy(conversations: Sequence[Conversation], replies: Sequence[Reply]) -> dict[str, float]:
    """Share of right replies by skill."""
    right: dict[str, list[bool]] = defaultdict(list)
    for conversation, reply in zip(conversations, replies, strict=True):
        right[conversation.skill or "unnamed"].append(is_right(conversation, reply))
    return {skill: sum(values) / len(values) for skill, values in sorted(right.items())}


def refusal_rate(conversations: Sequence[Conversation], replies: Sequence[Reply], skill: str) -> float:
    """Share of replies to one skill's prompts that decline; 0 when there is none of that skill."""
    declined = [
        reply.ended and is_refusal(reply.text)
        for conversation, reply in zip(conversations, replies, strict=True)
        if conversation.skill == skill
    ]
    return sum(declined) / len(declined) if declined else 0.0


def samples(conversations: Sequence[Conversation], replies: Sequence[Reply], per_skill: int) -> list[dict[str, Any]]:
    """The first `per_skill` conversations of each skill and language with the model's reply and the verdict."""
    shown = {id(conversation) for conversation in first_of_each_skill(conversations, per_skill)}
    return [
        {
            "skill": conversation.skill or "unnamed",
            "messages": [{"role": turn.role, "content": turn.content} for turn in conversation.prompt],
            "reply": reply.text if reply.ended else f"{reply.text} …",
            "expected": conversation.reply,
            "right": is_right(conversation, reply),
        }
        for conversation, reply in zip(conversations, replies, strict=True)
        if id(conversation) in shown
    ]
