"""Prompts of a file that leave a model room for an answer."""

from itertools import islice
from pathlib import Path

from danlu.conversations.prompts import Prompt, read_prompts
from danlu.conversations.records import SkippedRecord, count_malformed, named
from danlu.inference.generate import encode_prompt
from danlu.run.left_out import LeftOut
from danlu.tokenizer.bpe import Tokenizer


def prompts_with_room(
    path: Path, tokenizer: Tokenizer, max_new_tokens: int, limit: int, count: int | None = None
) -> tuple[list[tuple[Prompt, list[int]]], LeftOut]:
    """The first `count` prompts of a file with their ids; and what was left out: malformed records, and prompts that
    leave fewer than `max_new_tokens` of `limit` tokens for an answer."""
    skipped: list[SkippedRecord] = []
    kept, left_out = [], LeftOut()
    for prompt in islice(read_prompts(path, skipped), count):
        ids = encode_prompt(tokenizer, prompt.turns)
        if len(ids) + max_new_tokens <= limit:
            kept.append((prompt, ids))
        else:
            left_out.add(f"leaves no room for {max_new_tokens} tokens within {limit}", named(prompt.messages))
    count_malformed(skipped, left_out)
    return kept, left_out
