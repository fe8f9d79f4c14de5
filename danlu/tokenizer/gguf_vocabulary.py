"""The vocabulary in a GGUF file, llama.cpp's, and the file itself as the package `gguf` reads it.

In: a file with a byte-level BPE whose cutting pattern is known. Out: a `Vocabulary`, with the file's own ids; and the
other way round. llama.cpp does not normalise text: what is not in NFC it encodes otherwise than we do.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from danlu.run.errors import UserError
from danlu.tokenizer.formats import Vocabulary, byte_characters, check_merge_order, recover_merges, spell
from danlu.tokenizer.special import END_OF_TEXT, IM_END, QWEN_PATTERN

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {
    "qwen2": QWEN_PATTERN,
    "gpt-2": GPT2_PATTERN,
    # Digits stand alone, and what is before one ends there, white space too.
    "smollm": r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
}
"""How text is cut, by `tokenizer.ggml.pre`."""


def open_gguf(path: Path) -> gguf.GGUFReader:
    """The file, read where it lies. Raises UserError for what is none, or cut off."""
    if not path.is_file():
        raise UserError("no such file", where=path)
    state = path.stat()
    return _opened(path, state.st_mtime_ns, state.st_size)


class _Reader(gguf.GGUFReader):
    """The package's reader, that says which tensor is of a type it does not know."""

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        known = {kind.value for kind in gguf.GGMLQuantizationType}
        for field in fields:
            _, _, _, _, kind, _ = field.parts  # Length of the name, name, number of sizes, sizes, type, place.
            if int(kind[0]) not in known:
                raise UserError(f"the tensor `{field.name}` is of type {int(kind[0])}, which cannot be read")
        super()._build_tensors(start_offs, fields)


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int, size: int) -> gguf.GGUFReader:
    # The package takes seconds for a large vocabulary; a model, its configuration and its tokenizer are one file.
    try:
        return _Reader(path)
    except UserError as error:
        raise UserError(error.what, where=path) from error
    except Exception as error:  # Whatever its arithmetic on foreign bytes comes to.
        raise UserError(f"not a whole GGUF file: {error}", where=path, mend="Get the file anew") from error


def gguf_value(reader: gguf.GGUFReader, key: str, default: Any = None) -> Any:
    """The value under a key, or `default` where there is none."""
    field = reader.get_field(key)
    if field is None:
        return default
    value = field.contents()
    # A float32 as the number that was meant: 1e-05, not 9.999999747378752e-06.
    return float(str(np.float32(value))) if field.types[0] == gguf.GGUFValueType.FLOAT32 else value


def read_gguf_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a file. Raises UserError for a tokenizer that is no byte-level BPE of a known pattern."""
    reader = open_gguf(path)
    model, pre = gguf_value(reader, "tokenizer.ggml.model"), gguf_value(reader, "tokenizer.ggml.pre")
    if model != "gpt2" or pre not in PATTERNS:
        raise UserError(
            f"its tokenizer is {model!r} with {pre!r}", where=path, mend=f"Danlu knows gpt2 with {', '.join(PATTERNS)}"
        )
    kinds = gguf_value(reader, "tokenizer.ggml.token_type")
    values = {character: value for value, character in enumerate(byte_characters())}
    ranks: dict[bytes, int] = {}
    special: dict[str, int] = {}
    try:
        for number, (token, kind) in enumerate(zip(gguf_value(reader, "tokenizer.ggml.tokens"), kinds, strict=True)):
            if kind == gguf.TokenType.NORMAL:
                ranks[bytes(values[character] for character in token)] = number
            elif kind != gguf.TokenType.UNUSED:
                special[token] = number
        tokens = gguf_value(reader, "tokenizer.ggml.tokens")
        merges = gguf_value(reader, "tokenizer.ggml.merges", [])
        check_merge_order({token: number for number, token in enumerate(tokens)}, merges, path)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"its vocabulary is none of byte-level BPE: {error!r}", where=path) from error
    return Vocabulary(ranks, special, PATTERNS[pre], gguf_value(reader, "tokenizer.ggml.unknown_token_id"))


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, num_rows: int, chat_template: str | None) -> None:
    """Add `vocabulary` to a file whose matrix has `num_rows` rows. Raises UserError for a pattern without a name."""
    pre = next((name for name, pattern in PATTERNS.items() if pattern == vocabulary.pattern), None)
    if pre is None:
        raise UserError("GGUF has no name for how this tokenizer cuts text", mend="Use a tokenizer of Qwen's pattern")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    named = {number: (spell(token), gguf.TokenType.NORMAL) for token, number in vocabulary.ranks.items()}
    named |= {number: (token, gguf.TokenType.CONTROL) for token, number in vocabulary.special.items()}
    # A matrix may have more rows than there are tokens; llama.cpp wants a name for each.
    rows = [named.get(number, (f"[PAD{number}]", gguf.TokenType.UNUSED)) for number in range(num_rows)]
    writer.add_token_list([token for token, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    writer.add_token_merges([f"{spell(left)} {spell(right)}" for left, right in recover_merges(vocabulary.ranks)])
    writer.add_add_bos_token(False)
    special = vocabulary.special
    if vocabulary.unknown_id is not None:
        writer.add_unk_token_id(vocabulary.unknown_id)
    for add, names in (
        (writer.add_eos_token_id, (IM_END, END_OF_TEXT)),
        (writer.add_eot_token_id, (IM_END,)),
        (writer.add_pad_token_id, (END_OF_TEXT,)),
    ):
        if found := [special[each] for each in names if each in special]:
            add(found[0])
    if chat_template:
        writer.add_chat_template(chat_template)
