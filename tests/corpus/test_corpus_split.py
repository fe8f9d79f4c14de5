"""Held-out documents follow from content hashes alone."""

import random

from danlu.corpus.split import held_out
from danlu.corpus.tokens import content_hash

Entry = tuple[str, str, int]


def entries(count: int, size: int = 1000) -> list[Entry]:
    """Id, language and size."""
    languages = ("zh", "en")
    return [(content_hash(f"document {i}"), languages[i % 2], size + i % 7 * 100) for i in range(count)]


def chosen_of(documents: list[Entry], share: float, seed: int) -> set[str]:
    ids, languages, sizes = zip(*documents, strict=True)
    return {own for own, is_held in zip(ids, held_out(ids, languages, sizes, share, seed), strict=True) if is_held}


def test_each_language_gives_its_share_of_bytes() -> None:
    documents = entries(2000)
    chosen = chosen_of(documents, 0.02, seed=0)
    for language in ("zh", "en"):
        total = sum(size for _, own, size in documents if own == language)
        part = sum(size for identity, own, size in documents if own == language and identity in chosen)
        assert 0.018 * total < part <= 0.02 * total


def test_the_choice_does_not_depend_on_the_order_but_on_the_seed() -> None:
    documents = entries(500)
    chosen = chosen_of(documents, 0.1, seed=0)
    random.Random(1).shuffle(documents)
    assert chosen_of(documents, 0.1, seed=0) == chosen
    assert chosen_of(documents, 0.1, seed=1) != chosen


def test_a_small_corpus_keeps_one_document_for_validation_and_one_to_train_on() -> None:
    assert len(chosen_of(entries(2), 0.02, seed=0)) == 1
    assert chosen_of(entries(1), 0.02, seed=0) == set()
    assert chosen_of(entries(50), 0.0, seed=0) == set()
