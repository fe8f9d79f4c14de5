"""Held-out documents follow from content hashes alone."""

import random

from danlu.corpus.dedup import content_hash
from danlu.corpus.split import Entry, held_out


def entries(count: int, size: int = 1000) -> list[Entry]:
    languages = ("zh", "en")
    return [
        Entry(id=content_hash(f"document {i}"), language=languages[i % 2], size=size + i % 7 * 100)
        for i in range(count)
    ]


def test_each_language_gives_its_share_of_bytes() -> None:
    documents = entries(2000)
    chosen = held_out(documents, 0.02, seed=0)
    for language in ("zh", "en"):
        total = sum(entry.size for entry in documents if entry.language == language)
        part = sum(entry.size for entry in documents if entry.language == language and entry.id in chosen)
        assert 0.018 * total < part <= 0.02 * total


def test_the_choice_does_not_depend_on_the_order_but_on_the_seed() -> None:
    documents = entries(500)
    chosen = held_out(documents, 0.1, seed=0)
    random.Random(1).shuffle(documents)
    assert held_out(documents, 0.1, seed=0) == chosen
    assert held_out(documents, 0.1, seed=1) != chosen


def test_a_small_corpus_keeps_one_document_for_validation_and_one_to_train_on() -> None:
    assert len(held_out(entries(2), 0.02, seed=0)) == 1
    assert held_out(entries(1), 0.02, seed=0) == set()
    assert held_out(entries(50), 0.0, seed=0) == set()
