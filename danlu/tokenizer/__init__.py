"""From text to ids and back: BPE training, encode and decode, ChatML, token shards on disk.

In: documents as Parquet (`id, text, source, url, language, weight`). Out: a tokenizer folder (rank file,
`tokenizer.json`, `tokenizer_config.json`) and memory-mapped token shards. Report, section 2.2.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.tokenizer.bpe import Tokenizer as Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    """Load `Tokenizer` when it is first asked for, so that reading the configuration stays quick."""
    if name == "Tokenizer":
        from danlu.tokenizer.bpe import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
