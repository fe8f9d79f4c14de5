"""Paragraphs that repeat: which occurrence of each stays, and a document without those that go.

A paragraph is a line of text. In: for each document, in the order of preference, the numbers of its paragraphs. Out:
for each document the places of those that go. The first occurrence in the best document stays, so each paragraph of
the corpus is left exactly once; a paragraph too short to count always stays.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from danlu.corpus.tokens import comparable, number_of

SLICE = 20_000_000
"""Paragraphs compared at once; a larger corpus is gone through several times. Our choice: 0.5 GB."""


def paragraph_numbers(text: str, min_characters: int) -> list[int]:
    """A number for each line of a text, the same for lines that differ in case, width and punctuation alone; 0 for a
    line too short to count."""
    return [
        number_of(" ".join(comparable(line))) or 1 if len(line.strip()) >= min_characters else 0
        for line in text.split("\n")
    ]


def repeated(documents: Iterable[tuple[int, np.ndarray]], num_paragraphs: int) -> Iterator[tuple[int, int]]:
    """Document and place of each paragraph that goes, in no order.

    `documents` gives a document's number in the order of preference (smaller is better) and its paragraphs' numbers;
    it is gone through once for every SLICE paragraphs, so it must be one that can be: a list, or an object whose
    iterator begins anew.
    """
    slices = np.uint64(num_paragraphs // SLICE + 1)
    for part in range(int(slices)):
        numbers, owners, places = [], [], []
        for owner, paragraphs in documents:
            chosen = np.flatnonzero((paragraphs != 0) & (paragraphs % slices == part))
            if len(chosen):
                numbers.append(paragraphs[chosen])
                owners.append(np.full(len(chosen), owner, dtype=np.int64))
                places.append(chosen)
        if not numbers:
            continue
        all_numbers, all_owners, all_places = map(np.concatenate, (numbers, owners, places))
        order = np.lexsort((all_places, all_owners, all_numbers))
        again = order[1:][all_numbers[order[1:]] == all_numbers[order[:-1]]]
        yield from zip(all_owners[again].tolist(), all_places[again].tolist(), strict=True)


def without(text: str, places: Iterable[int]) -> str:
    """A text without the lines at `places`."""
    gone = set(places)
    return "\n".join(line for place, line in enumerate(text.split("\n")) if place not in gone).strip("\n")
