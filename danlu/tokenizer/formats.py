"""The vocabulary on disk: rank file, `tokenizer.json`, `tokenizer_config.json`.

In: a folder or one of the files. Out: a `Vocabulary`, or the three files. All three forms give the same ids:
tiktoken looks a whole piece up before it merges, so `tokenizer.json` says `ignore_merges`; merges are
recovered from the ranks.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.tokenizer.chat import CHAT_TEMPLATE
from danlu.tokenizer.special import END_OF_TEXT, IM_END, IM_START, QWEN_PATTERN, special_tokens

RANK_FILE = "qwen.tiktoken"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
GGUF_SUFFIX = ".gguf"
FILES = (RANK_FILE, JSON_FILE, CONFIG_FILE)


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file: a folder may be called as it likes."""
    return path.suffix == GGUF_SUFFIX and not path.is_dir()


def has_vocabulary(path: Path) -> bool:
    """Whether a model's folder or GGUF file holds a tokenizer."""
    if is_gguf(path):
        from danlu.tokenizer.gguf_vocabulary import gguf_value, open_gguf

        return gguf_value(open_gguf(path), "tokenizer.ggml.model") is not None
    return any((path / name).is_file() for name in (JSON_FILE, RANK_FILE))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ranks of byte strings (a rank is an id and the order of merging), special tokens, and how text is cut."""

    ranks: dict[bytes, int]
    special: dict[str, int]
    pattern: str = QWEN_PATTERN
    unknown_id: int | None = None
    """Stands for every byte that has no token, which vocabularies of others may lack."""

    @property
    def absent_bytes(self) -> list[bytes]:
        """Single bytes without a token."""
        return [byte for byte in (bytes([value]) for value in range(256)) if byte not in self.ranks]

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return 1 + max([*self.ranks.values(), *self.special.values()])


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a folder, a rank file, a `tokenizer.json` or a GGUF file. Raises UserError naming the file and
    the mistake."""
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(
            "no such tokenizer",
            where=path,
            mend="Name a tokenizer folder, a .tiktoken file or a tokenizer.json",
        )
    if path.suffix == GGUF_SUFFIX:
        from danlu.tokenizer.gguf_vocabulary import read_gguf_vocabulary  # The package is slow to import.

        vocabulary = read_gguf_vocabulary(path)
    else:
        vocabulary = _read_json(path) if path.suffix == ".json" else _from_ranks(_read_ranks(path))
    _check(vocabulary, path)
    return vocabulary


def _read_folder(folder: Path) -> Vocabulary:
    """`tokenizer.json` where there is one (it names the special tokens too), else the only rank file."""
    if (folder / JSON_FILE).is_file():
        return read_vocabulary(folder / JSON_FILE)
    rank_files = sorted(folder.glob("*.tiktoken"))
    if len(rank_files) != 1:
        raise UserError(
            f"holds neither {JSON_FILE} nor one .tiktoken file",
            where=folder,
            mend="Is it a tokenizer folder?",
        )
    return read_vocabulary(rank_files[0])


def _from_ranks(ranks: dict[bytes, int]) -> Vocabulary:
    # A rank file names no special tokens: they are Qwen v1's, after the ranks.
    return Vocabulary(ranks, special_tokens(max(ranks.values(), default=-1) + 1))


def _check(vocabulary: Vocabulary, path: Path) -> None:
    """tiktoken ends the program on a vocabulary with a missing byte, so it is checked before."""
    missing = vocabulary.absent_bytes
    if missing and vocabulary.unknown_id is None:
        raise UserError(f"{len(missing)} single bytes have no token (first: 0x{missing[0].hex()})", where=path)
    ids = [*vocabulary.ranks.values(), *vocabulary.special.values()]
    if len(set(ids)) != len(ids):
        raise UserError("two tokens share an id", where=path)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(f"line {number} is not a token in base64 and a rank", where=path) from error
    return ranks


@cache
def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte, as `tokenizer.json` spells tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(value if value in printable else next(spare)) for value in range(256)]


def spell(token: bytes) -> str:
    """A token in these characters."""
    characters = byte_characters()
    return "".join(characters[value] for value in token)


def _read_json(path: Path) -> Vocabulary:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid JSON: {error}", where=path) from error
    try:
        special = {token["content"]: token["id"] for token in data["added_tokens"]}
        pattern = _pattern(data, path)
        values = {character: value for value, character in enumerate(byte_characters())}
        ranks = {
            bytes(values[character] for character in token): rank
            for token, rank in data["model"]["vocab"].items()
            if token not in special
        }
        check_merge_order(data["model"]["vocab"], data["model"]["merges"], path)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not a byte-level BPE as Qwen's ({error!r} is not what it should be)", where=path) from error
    return Vocabulary(ranks, special, pattern)


def _pattern(data: dict[str, Any], path: Path) -> str:
    """The cutting pattern; refuses what this tokenizer would not do the same way."""
    if data["model"]["type"] != "BPE" or data["model"].get("byte_fallback"):
        raise UserError("not a byte-level BPE", where=path, mend="Use a tokenizer of the Qwen kind")
    if (data["normalizer"] or {}).get("type") != "NFC":
        raise UserError("its text is not normalised to NFC", where=path, mend="Use a tokenizer of the Qwen kind")
    steps = data["pre_tokenizer"].get("pretokenizers", [data["pre_tokenizer"]])
    if [step["type"] for step in steps] != ["Split", "ByteLevel"] or steps[1].get("add_prefix_space"):
        raise UserError("its text is not cut by one pattern", where=path, mend="Use a tokenizer of the Qwen kind")
    pattern: str = steps[0]["pattern"]["Regex"]
    return pattern


def check_merge_order(ids: dict[str, int], merges: Iterable[str | Sequence[str]], path: Path) -> None:
    """A rank is an id and a priority at once: merges must be listed in the order of the ids they make."""
    last = -1
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made = ids[left + right]
        if made < last:
            raise UserError("its merges are not in the order of its ids", where=path)
        last = made


def recover_parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What `token` is merged from last: its bytes, merged by rank as long as the rank is below its own."""
    parts = [token[index : index + 1] for index in range(len(token))]
    limit = ranks[token]
    while len(parts) > 1:
        pairs = [ranks.get(parts[index] + parts[index + 1], limit) for index in range(len(parts) - 1)]
        best = min(pairs)
        if best >= limit:
            break
        place = pairs.index(best)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def recover_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges that the ranks stand for, in order. A token that merging cannot reach has none: it is still
    found where it is a whole piece, as tiktoken does."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = recover_parts(token, ranks)
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def write_folder(vocabulary: Vocabulary, folder: Path) -> None:
    """Write the three files into `folder`, each whole or not at all. Raises UserError for a vocabulary without a token
    for every byte, which they cannot hold."""
    if vocabulary.absent_bytes:
        raise UserError(
            f"{len(vocabulary.absent_bytes)} bytes have no token, which a tokenizer's files cannot say",
            where=folder,
            mend="Convert the model to gguf",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with publish(folder / RANK_FILE) as aside:
        aside.write_bytes(rank_lines(vocabulary.ranks))
    with publish(folder / JSON_FILE) as aside:
        aside.write_text(_tokenizer_json(vocabulary), encoding="utf-8")
    write_json(folder / CONFIG_FILE, tokenizer_config(vocabulary))


def rank_lines(ranks: dict[bytes, int]) -> bytes:
    """The rank file: a token in base64 and its rank on each line, by rank."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def _tokenizer_json(vocabulary: Vocabulary) -> str:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ordered = sorted(vocabulary.ranks.items(), key=lambda item: item[1])
    merges = [(spell(left), spell(right)) for left, right in recover_merges(vocabulary.ranks)]
    model = models.BPE({spell(token): rank for token, rank in ordered}, merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(vocabulary.pattern), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = sorted(vocabulary.special, key=vocabulary.special.__getitem__)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    if any(tokenizer.token_to_id(name) != vocabulary.special[name] for name in names):
        raise UserError("the special tokens do not follow the ranks without a gap, which tokenizer.json needs")
    return tokenizer.to_str(pretty=True)


def tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """What `transformers.AutoTokenizer` reads beside `tokenizer.json`.

    A reply ends with `<|im_end|>` and batches are padded with `<|endoftext|>`, so that padding never hides
    the end of a reply. The class is the one that takes `tokenizer.json` as it is (tested with transformers 5.24).
    """
    named = [name for name in (IM_START, IM_END) if name in vocabulary.special]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": IM_END if IM_END in vocabulary.special else None,
        "pad_token": END_OF_TEXT if END_OF_TEXT in vocabulary.special else None,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": named,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "errors": "replace",
        "chat_template": CHAT_TEMPLATE,
    }
