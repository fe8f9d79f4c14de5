"""How many bytes a token stands for, per language.

In: documents and a tokenizer. Out: plain figures, one entry for each language and one for `all`.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable

from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.documents import Document
from danlu.tokenizer.text import normalize

DOCUMENTS_PER_BATCH = 256


def compression(tokenizer: Tokenizer, documents: Iterable[Document]) -> dict[str, dict[str, float]]:
    """For each language and `all`: `documents`, `bytes` (UTF-8 after NFC), `tokens`, and bytes per token of
    three ways to cut text: `bytes_per_token` (this tokenizer), `bytes_per_character` (a token for each
    character) and `bytes_per_byte`, which is 1. Empty without documents."""
    totals: dict[str, dict[str, int]] = defaultdict(lambda: {"documents": 0, "bytes": 0, "tokens": 0, "characters": 0})
    remaining = iter(documents)
    while batch := list(itertools.islice(remaining, DOCUMENTS_PER_BATCH)):
        texts = [normalize(document.text) for document in batch]
        for document, text, ids in zip(batch, texts, tokenizer.encode_batch(texts), strict=True):
            for key in (document.language, "all"):
                total = totals[key]
                total["documents"] += 1
                total["bytes"] += len(text.encode())
                total["tokens"] += len(ids)
                total["characters"] += len(text)
    return {
        language: {
            **{key: total[key] for key in ("documents", "bytes", "tokens")},
            "bytes_per_token": round(total["bytes"] / max(total["tokens"], 1), 4),
            "bytes_per_character": round(total["bytes"] / max(total["characters"], 1), 4),
            "bytes_per_byte": 1.0,
        }
        for language, total in sorted(totals.items())
    }
