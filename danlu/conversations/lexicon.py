"""The words of the conversations: those that fine-tuning may see, those it never does, and words made up on the spot.

In: the corpus' training documents. Out: a `Vocabulary` for each language. The split is by hash, so it depends on the
word and the seed alone. An unseen word occurs in no training conversation, not even inside another word: unseen words
that the templates and our own lists contain are dropped, seen words that contain an unseen one are dropped, and the
generator throws away what happens to spell one across a seam.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from danlu.conversations.config import ConversationsConfig
from danlu.conversations.mining import frequent_characters, limited, mine_chinese, mine_english
from danlu.conversations.skills.exchange import LANGUAGES, WordDraw, word_list
from danlu.conversations.skills.greetings import GIVEN, SURNAMES
from danlu.run.errors import UserError
from danlu.run.seeds import derive_seed
from danlu.tokenizer.documents import iter_documents

MAX_HOSTS = 3
"""An unseen word inside more seen words than this is dropped itself; else they are. Our choice: few are lost."""

FEWEST_WORDS = 60
"""With fewer mined words than this (a very small corpus) made-up ones fill the list."""

NUM_CHARACTERS = 2500
"""Chinese words are made up of the corpus' most frequent characters. Our choice: about those of common use."""

NUM_FREQUENT = 2000
"""Words to repeat in counting are among the first of the list: short in tokens."""

RANK_BUCKETS = 10
"""Unseen words are drawn so that their ranks are spread like those of the seen ones, in tenths."""

RUNS = re.compile(r"[a-z]{3,}|[\u4e00-\u9fff]{2,}")
WORD_LENGTHS = {"zh": (2, 4), "en": (3, 10)}


@dataclass(frozen=True)
class Vocabulary:
    """The words of one language, each list with the most frequent first."""

    language: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    ranks: dict[str, int]
    """The place of each mined word among all mined words, from 0."""
    characters: tuple[str, ...]
    """What Chinese words are made up of."""

    def training_draw(self, made_up_share: float) -> WordDraw:
        """Seen words and made-up ones."""

        def word(source: Random) -> str:
            if source.random() < made_up_share:
                return made_up_word(source, self.language, self.characters)
            return source.choice(self.seen)

        return WordDraw(word=word, frequent=self._frequent())

    def testing_draw(self) -> WordDraw:
        """Seen words only: the test measures ordinary words in new combinations."""
        return WordDraw(word=lambda source: source.choice(self.seen), frequent=self._frequent(), purpose="test")

    def unseen_draw(self) -> WordDraw:
        """Unseen words, their ranks spread like those of the seen words."""
        top = max(self.ranks.values(), default=0) + 1

        def bucket(word: str) -> int:
            return self.ranks.get(word, 0) * RANK_BUCKETS // top

        members: dict[int, list[str]] = {}
        for hidden in self.unseen:
            members.setdefault(bucket(hidden), []).append(hidden)
        weights = [sum(bucket(known) == number for known in self.seen) or 1 for number in members]

        def word(source: Random) -> str:
            return source.choice(members[source.choices(list(members), weights)[0]])

        return WordDraw(word=word, frequent=word, purpose="unseen")

    def _frequent(self) -> Callable[[Random], str]:
        longest = 2 if self.language == "zh" else 6
        short = [word for word in self.seen[:NUM_FREQUENT] if len(word) <= longest] or list(self.seen)
        return lambda source: source.choice(short)


@dataclass(frozen=True)
class MinedWords:
    """What the corpus gives for one language, before the split."""

    language: str
    words: tuple[str, ...]
    characters: tuple[str, ...]


def mine_words(config: ConversationsConfig) -> dict[str, MinedWords]:
    """The words of each language in the training documents. UserError when there are no documents."""
    folder = config.input / "train"
    texts = {language: limited(_texts(folder, language)) for language in LANGUAGES}
    if not any(texts.values()):
        raise UserError("no documents in Chinese or English to take words from", where=folder)
    characters = frequent_characters(texts["zh"], NUM_CHARACTERS)
    # A small corpus has too few characters to make words of; the names' ones are common ones.
    characters = list(dict.fromkeys([*characters, *SURNAMES, *GIVEN]))[:NUM_CHARACTERS]
    return {
        "zh": MinedWords(
            "zh", tuple(mine_chinese(texts["zh"], config.words_per_language, config.min_count_zh)), tuple(characters)
        ),
        "en": MinedWords("en", tuple(mine_english(texts["en"], config.words_per_language, config.min_count_en)), ()),
    }


def _texts(folder: Path, language: str) -> Iterator[str]:
    return (document.text for document in iter_documents(folder) if document.language == language)


def split_words(mined: MinedWords, config: ConversationsConfig, fixed: set[str]) -> Vocabulary:
    """Seen and unseen words; `fixed` holds what templates and own lists contain (see `contained_strings`)."""
    words = _enough(mined, config)
    hidden = {word for word in words if word not in fixed and _hash_share(word, config.seed) < config.unseen_share}
    hosts: dict[str, int] = dict.fromkeys(hidden, 0)
    for word in words:
        for part in hidden.intersection(contained_strings(word)) - {word}:
            # An unseen word inside another unseen one does no harm.
            hosts[part] += word not in hidden
    hidden = {word for word in hidden if hosts[word] <= MAX_HOSTS}
    seen = tuple(word for word in words if hidden.isdisjoint(contained_strings(word)))
    unseen = tuple(word for word in words if word in hidden)
    ranks = {word: rank for rank, word in enumerate(words)}
    return Vocabulary(mined.language, seen, unseen, ranks, mined.characters)


def _enough(mined: MinedWords, config: ConversationsConfig) -> list[str]:
    """The mined words, and behind them made-up ones where the corpus is too small."""
    words = dict.fromkeys(mined.words)
    source = Random(derive_seed(config.seed, "made-up words", mined.language))
    while len(words) < FEWEST_WORDS:
        words.setdefault(made_up_word(source, mined.language, mined.characters))
    return list(words)


def _hash_share(word: str, seed: int) -> float:
    """A number from 0 to 1 that depends on the word and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{word}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


ONSETS = word_list("b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr pl pr qu sh sk sl sp st str th tr")
VOWELS = word_list("a e i o u ai ea ee ou oo")
CODAS = ("", "", "", *word_list("n r l s t m d ck nd st ng rt"))


def made_up_word(source: Random, language: str, characters: tuple[str, ...]) -> str:
    """A pronounceable English word of 4 to 10 letters, or two or three Chinese characters."""
    if language == "zh":
        return "".join(source.choices(characters, k=source.choice((2, 2, 3))))
    shortest, longest = WORD_LENGTHS["en"]
    while True:
        syllables = source.choice((1, 2, 2, 3))
        parts = [source.choice(ONSETS) + source.choice(VOWELS) + source.choice(CODAS) for _ in range(syllables)]
        word = "".join(parts)
        if shortest < len(word) <= longest:
            return word


def contained_strings(text: str) -> Iterable[str]:
    """Every string inside `text` that is as long as a word may be: parts of words and of Chinese runs."""
    for run in RUNS.findall(text.lower()):
        yield from _parts(run)


@lru_cache(maxsize=1 << 15)
def _parts(run: str) -> tuple[str, ...]:
    shortest, longest = WORD_LENGTHS["en" if run[0].isascii() else "zh"]
    return tuple(
        run[start : start + length]
        for length in range(shortest, min(longest, len(run)) + 1)
        for start in range(len(run) - length + 1)
    )
