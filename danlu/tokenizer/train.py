"""Learn a byte-level BPE from the corpus.

In: `input/train/*.parquet`, and `input/validation` to measure on. Out: the folder `out/tokenizer` and
`out/figures.json`. Report, section 2.2.

Tie rule: the most frequent pair is merged first; of equally frequent pairs the one with the smaller left id,
then the smaller right id (bytes are ids 0 to 255 by value, merges follow in order). The trainer keeps it
whatever the order of the documents, the hash seed and the number of threads, so the rank file depends on the
set of texts alone. Documents count once whatever their weight: weights belong to the model's diet, not to its alphabet.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import regex

from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.compression import compression
from danlu.tokenizer.config import TokenizerConfig
from danlu.tokenizer.documents import iter_documents
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.special import QWEN_PATTERN, special_tokens
from danlu.tokenizer.text import normalize


def train_tokenizer(config: TokenizerConfig) -> Path:
    """Train on the corpus, save, measure on the validation split; the tokenizer's folder.

    Raises UserError for a missing or empty corpus, or one too small for the vocabulary wanted.
    """
    # --- data ---
    chosen = choose_documents(config)

    # --- merges ---
    with ProgressBar("tokenizer", total=chosen.num_documents, unit="documents") as bar:
        ranks = learn_ranks(_counted(chosen.texts(), bar), config)
    vocabulary = Vocabulary(ranks, special_tokens(len(ranks), config.num_extra_special))
    tokenizer = Tokenizer(vocabulary)

    # --- product ---
    product = config.out / "tokenizer"
    with publish(product) as aside:
        tokenizer.save(aside)

    # --- measure ---
    figures = {
        "vocab_size": tokenizer.vocab_size,
        "num_ranks": len(ranks),
        "num_special": config.num_special,
        "train_documents": chosen.num_documents,
        "train_bytes": chosen.num_bytes,
        "corpus_documents": chosen.num_seen,
        "validation": compression(tokenizer, iter_documents(config.input / "validation")),
    }
    write_json(config.out / "figures.json", figures)
    return product


class ChosenDocuments:
    """The documents to train on: all, or as many as fit into a number of bytes, those whose texts hash lowest first.

    Keeps 16 bytes for each document, not the texts.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        sizes = [(_hash(document.text), _size(document.text)) for document in iter_documents(folder)]
        self.num_seen = len(sizes)
        self.num_bytes = 0
        self.hashes: set[bytes] = set()
        for text_hash, size in sorted(sizes):
            if size and self.num_bytes + size <= max_bytes:
                self.num_bytes += size
                self.hashes.add(text_hash)

    @property
    def num_documents(self) -> int:
        """How many different texts were chosen."""
        return len(self.hashes)

    def texts(self) -> Iterator[str]:
        """Their texts, as they lie in the corpus."""
        for document in iter_documents(self.folder):
            if _hash(document.text) in self.hashes:
                yield document.text


def choose_documents(config: TokenizerConfig) -> ChosenDocuments:
    """The documents to train on. Raises UserError when there is no text that fits."""
    folder = config.input / "train"
    chosen = ChosenDocuments(folder, config.max_train_bytes)
    if not chosen.hashes:
        raise UserError(
            f"no document with text of at most {config.max_train_bytes} bytes to train a tokenizer on",
            where=folder,
            mend="Give the corpus stage more input, or raise max_train_bytes",
        )
    return chosen


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _counted(texts: Iterable[str], bar: ProgressBar) -> Iterator[str]:
    for text in texts:
        yield text
        bar.advance()


def cut_long_pieces(text: str, longest: int) -> Iterator[str]:
    """`text` in parts, cut wherever `longest` letters, marks or white-space characters stand in a row and more follow.

    Without it one piece may be as long as the document (Chinese without punctuation), and each merge would walk it.
    """
    classes = (r"\p{L}", r"[^\s\p{L}\p{N}]", r"\s")
    long_run = "|".join(f"{kind}{{{longest}}}(?={kind})" for kind in classes)
    start = 0
    for run in regex.finditer(long_run, text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def learn_ranks(texts: Iterable[str], config: TokenizerConfig) -> dict[bytes, int]:
    """The ranks of the most frequent byte strings: 256 bytes, then one a merge.

    Raises UserError when the texts hold too few different pairs for `config.vocab_size`.
    """
    import rustbpe

    wanted = config.vocab_size - config.num_special
    trainer = rustbpe.Tokenizer()
    parts = (part for text in texts for part in cut_long_pieces(normalize(text), config.max_piece_characters))
    trainer.train_from_iterator(parts, vocab_size=wanted, pattern=QWEN_PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) < wanted:
        most = len(ranks) + config.num_special
        raise UserError(
            f"too small a corpus for a vocabulary of {config.vocab_size}: nothing to merge after {most}",
            where=config.input / "train",
            mend=f"Give it more text, or set vocab_size to at most {most}",
        )
    assert sorted(ranks.values()) == list(range(wanted)), "the trainer made one byte string twice"
    return ranks
