"""Text to ids and back with a byte-level BPE.

In: a vocabulary (ranks of byte strings, special tokens). Out: ids, and text again. Report, section 2.2.
tiktoken does the merging; this file adds NFC, the policy for surrogates, special tokens that only code can
put in, and a way around tiktoken's panic on very long runs of white space.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import regex
import tiktoken

from danlu.run.errors import UserError
from danlu.tokenizer import formats
from danlu.tokenizer.special import END_OF_TEXT, IM_END, IM_START
from danlu.tokenizer.text import normalize, well_formed

LONGEST_WHITE_RUN = 100
"""Characters of white space in a row that are left to tiktoken, whose regex engine takes time with the square of such a
run: 2 MB in runs of 9,999 take half a minute, cut here 0.2 seconds."""

LONGEST_UNCUT_RUN = 10_000
"""The same where the pattern is none that we can cut. At 1,000,000 spaces the engine ends the thread with a panic that
`except Exception` does not catch (0.14.0), not yet at 500,000."""

# Unicode's White_Space, as the pattern's \s in Rust; Python's \s has four control characters more.
_WHITE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_LONG_WHITE = re.compile(f"{_WHITE}{{{LONGEST_WHITE_RUN},}}")
_UNCUT_WHITE = re.compile(f"{_WHITE}{{{LONGEST_UNCUT_RUN},}}")
_PUNCTUATION = regex.compile(r"[^\s\p{L}\p{N}]")
_WHITE_RULES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""The end of Qwen's pattern, cl100k's and their relatives': what `split_long_white` relies on."""


def split_long_white(text: str, long_white: re.Pattern[str] = _LONG_WHITE) -> Iterator[tuple[str, bool]]:
    """Cut `text` where Qwen's pattern cuts it around each very long run of white space, and nowhere else.

    Gives `(part, is_piece)`: a piece is merged as it is, other parts go through the pattern. Inside a run the
    pattern takes everything to the last line break as one piece (`\\s*[\\r\\n]+`, after the line breaks that
    belong to a punctuation mark before it), then all but the last character (`\\s+(?!\\S)`); that last one
    may join what follows.
    """
    start = 0
    for run in long_white.finditer(text):
        first, end = run.span()
        if first > start and _PUNCTUATION.match(text, first - 1):
            first += len(run.group()) - len(run.group().lstrip("\r\n"))
        if first > start:
            yield text[start:first], False
        break_end = max(text.rfind("\n", first, end), text.rfind("\r", first, end)) + 1
        if break_end > first:
            yield text[first:break_end], True
            first = break_end
        start = max(first, end - 1) if end < len(text) else end
        if start > first:
            yield text[first:start], True
    if start < len(text):
        yield text[start:], False


class Tokenizer:
    """A byte-level BPE vocabulary with special tokens after its ranks.

    Made by `Tokenizer.load(path)`; `path` is a tokenizer folder, a rank file or a `tokenizer.json`.
    """

    def __init__(self, vocabulary: formats.Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.special = dict(vocabulary.special)
        self.control_ids = frozenset(self.special.values())
        self.vocab_size = vocabulary.size
        # tiktoken wants a rank for each byte; `_encode_text` puts the unknown token in place of these.
        absent = {byte: self.vocab_size + place for place, byte in enumerate(vocabulary.absent_bytes)}
        self._has_absent, ranks = bool(absent), {**vocabulary.ranks, **absent}
        # Special tokens are not made known to tiktoken: none of its methods can then turn text into one.
        self._bpe = tiktoken.Encoding("danlu", pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={})
        self._one_piece = tiktoken.Encoding("danlu-piece", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens={})
        self._bytes = {rank: token for token, rank in vocabulary.ranks.items()}
        self._bytes.update({rank: name.encode() for name, rank in self.special.items()})
        names = sorted(self.special, key=len, reverse=True)
        self._special_names = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Open a tokenizer folder, a `.tiktoken` rank file or a `tokenizer.json`. Raises UserError if it cannot."""
        return cls(formats.read_vocabulary(Path(path)))

    def save(self, folder: str | Path) -> None:
        """Write `qwen.tiktoken`, `tokenizer.json` and `tokenizer_config.json` into `folder` (made if needed)."""
        formats.write_folder(self.vocabulary, Path(folder))

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of `text` in NFC. Text that spells a special token stays text unless `allow_special`."""
        if not allow_special or self._special_names is None:
            return self._encode_text(text)
        ids: list[int] = []
        # Special tokens are found before NFC, as `tokenizer.json` does: a combining mark must not break one.
        for part in self._special_names.split(well_formed(text)):
            ids.extend([self.special[part]] if part in self.special else self._encode_text(part))
        return ids

    def encode_batch(self, texts: Sequence[str], allow_special: bool = False) -> list[list[int]]:
        """`encode` of each text; tiktoken releases the interpreter lock, so the cores share the work."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda text: self.encode(text, allow_special), texts))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, special tokens as they are written. Raises ValueError for an id that does not exist."""
        try:
            return b"".join([self._bytes[token_id] for token_id in ids])
        except KeyError as error:
            raise ValueError(f"no token has the id {error.args[0]}; the vocabulary has {self.vocab_size}") from error

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of `ids`; `errors` says what becomes of bytes that are not UTF-8, as in `bytes.decode`."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    @property
    def end_of_text_id(self) -> int:
        """`<|endoftext|>`: ends a document."""
        return self._special_id(END_OF_TEXT)

    @property
    def im_start_id(self) -> int:
        """`<|im_start|>`: opens a turn."""
        return self._special_id(IM_START)

    @property
    def im_end_id(self) -> int:
        """`<|im_end|>`: closes a turn."""
        return self._special_id(IM_END)

    @property
    def stop_ids(self) -> tuple[int, int]:
        """The ids that end generation everywhere: `<|im_end|>` and `<|endoftext|>`."""
        return self.im_end_id, self.end_of_text_id

    def _special_id(self, name: str) -> int:
        if name not in self.special:
            raise UserError(f"the tokenizer has no token {name}", mend="Use a tokenizer with Qwen's control tokens")
        return self.special[name]

    def _encode_text(self, text: str) -> list[int]:
        ids = self._merged(normalize(text))
        if not self._has_absent:
            return ids
        unknown = self.vocabulary.unknown_id
        assert unknown is not None, "`formats.read_vocabulary` refuses such a vocabulary"
        return [unknown if token >= self.vocab_size else token for token in ids]

    def _merged(self, text: str) -> list[int]:
        if len(text) < LONGEST_WHITE_RUN or not _LONG_WHITE.search(text):
            return self._bpe.encode_ordinary(text)
        if not self.vocabulary.pattern.endswith(_WHITE_RULES):
            if _UNCUT_WHITE.search(text):
                raise ValueError(f"{LONGEST_UNCUT_RUN} characters of white space in a row; the pattern cannot cut them")
            return self._bpe.encode_ordinary(text)
        ids: list[int] = []
        for part, is_piece in split_long_white(text):
            ids.extend((self._one_piece if is_piece else self._bpe).encode_ordinary(part))
        return ids
