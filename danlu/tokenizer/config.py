"""The recipe's tables `tokenizer` and `tokens`. Nothing heavy is imported here, so that `danlu --help` stays quick."""

import dataclasses
from pathlib import Path

NUM_BYTES = 256
NUM_CONTROL = 3
"""`<|endoftext|>`, `<|im_start|>`, `<|im_end|>`."""
LARGEST_TRAINING = 2**31 - 1
"""The trainer counts pairs in 32 bits; no pair can occur more often than there are bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Train a byte-level BPE on a corpus. Raises ValueError for impossible values."""

    input: Path = Path("runs/corpus/documents")
    """Folder with `train/*.parquet` and `validation/*.parquet`, as the corpus stage writes them."""

    out: Path = Path("runs/tokenizer")
    """The stage's folder; the product is `tokenizer/` inside it."""

    vocab_size: int = 151_851
    """Number of ids in all: 256 bytes, merges, and special tokens. The default is Qwen v1's: 151,643 ranks
    and 208 special tokens (the embedding's rows may be padded beyond it)."""

    num_extra_special: int = 205
    """How many spare tokens `<|extra_0|>`, `<|extra_1|>`, … follow the three control tokens. Qwen v1: 205."""

    max_train_bytes: int = 50_000_000
    """Train on at most this many bytes of UTF-8 text; of a larger corpus those documents whose content hashes
    lowest, whatever their order. Our choice: 20 MB of Chinese without any punctuation, the worst case, took
    15 s and 1.1 GB for 8,192 ids, so 50 MB stay under 3 GB; ordinary text takes far less."""

    max_piece_characters: int = 128
    """Longer runs of letters, of punctuation or of white space are cut to this many characters for training
    only. Bounds time and memory on text without spaces or punctuation. Our choice: far above the longest
    useful token."""

    def __post_init__(self) -> None:
        if self.num_extra_special < 0:
            raise ValueError(f"num_extra_special must not be negative, not {self.num_extra_special}")
        least = NUM_BYTES + NUM_CONTROL + self.num_extra_special
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} (256 bytes, {NUM_CONTROL} control tokens, "
                f"{self.num_extra_special} extra), not {self.vocab_size}"
            )
        if not 1 <= self.max_train_bytes <= LARGEST_TRAINING:
            raise ValueError(f"max_train_bytes must lie in 1..{LARGEST_TRAINING}, not {self.max_train_bytes}")
        if self.max_piece_characters < 2:
            raise ValueError(f"max_piece_characters must be at least 2, not {self.max_piece_characters}")

    @property
    def num_special(self) -> int:
        """Control tokens and spare ones together."""
        return NUM_CONTROL + self.num_extra_special


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """Encode a corpus into token shards. Raises ValueError for impossible values."""

    input: Path = Path("runs/corpus/documents")
    """Folder with `train/*.parquet` and `validation/*.parquet`, as the corpus stage writes them."""

    tokenizer: Path = Path("runs/tokenizer/tokenizer")
    """Tokenizer folder, rank file or `tokenizer.json`."""

    out: Path = Path("runs/tokens")
    """The stage's folder; the products are `shards/train/` and `shards/validation/` inside it."""

    tokens_per_file: int = 100_000_000
    """A shard file is closed after the document that reaches this many tokens. Our choice: 200 MB at two bytes each."""

    use_weights: bool = True
    """Repeat training documents by their `weight` (2.5: each two or three times, 2.5 on average, exactly).
    The validation split is always written once."""

    def __post_init__(self) -> None:
        if self.tokens_per_file < 1:
            raise ValueError(f"tokens_per_file must be at least 1, not {self.tokens_per_file}")
