"""Prompt families: prompts that are the same or nearly so, which a split must not tear apart.

In: prompts. Out: a family for each; comparisons split so that no family stands on both sides. A reward model tested on
prompts that it was trained on shows what it has learnt by heart.

Two prompts are near when the sets of their 5-grams of characters (shingles), after normalisation, have a Jaccard
similarity of 0.9 or more; a family is what a chain of near ones joins. All near pairs are found, by prefix filtering
(Bayardo, Ma and Srikant 2007; Xiao et al. 2008): with each set ordered by the rarity of its shingles, two sets so near
share one of their first few, so that only sets which share a rare shingle need be compared.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

from danlu.conversations.comparisons import Comparison
from danlu.conversations.records import Message
from danlu.run.seeds import derive_seed

SHINGLE_LENGTH = 5
"""Characters of a shingle. Our choice: two or three Chinese words, about one English one."""

NEAR = (9, 10)
"""The least Jaccard similarity of a near pair, as a fraction, so that no rounding decides."""

Shingles = frozenset[str]


class Prompted(Protocol):
    """What has a prompt: a comparison, a conversation."""

    @property
    def prompt(self) -> tuple[Message, ...]: ...


P = TypeVar("P", bound=Prompted)


def prompt_families(prompts: Sequence[str]) -> list[int]:
    """The number of each prompt's family; families are numbered in the order of their first members."""
    numbers: dict[Shingles, int] = {}
    # Prompts of the same shingles, identical ones above all, are one set.
    places = [numbers.setdefault(_shingles(normalised_prompt(prompt)), len(numbers)) for prompt in prompts]
    roots = _joined(list(numbers))
    families: dict[int, int] = {}
    return [families.setdefault(roots[place], len(families)) for place in places]


def split_by_prompt(
    comparisons: Sequence[Comparison], test_share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons for training and about `test_share` of them for the test, each family whole on one side.

    The hash of a family's smallest prompt decides, so the order of the comparisons does not matter.
    """
    prompts = [normalised_prompt(prompt_text(comparison)) for comparison in comparisons]
    families = prompt_families(prompts)
    smallest: dict[int, str] = {}
    for family, prompt in zip(families, prompts, strict=True):
        smallest[family] = min(prompt, smallest.get(family, prompt))
    tested = {family for family, prompt in smallest.items() if derive_seed(seed, "split", prompt) < test_share * 2**63}
    train: list[Comparison] = []
    test: list[Comparison] = []
    for comparison, family in zip(comparisons, families, strict=True):
        (test if family in tested else train).append(comparison)
    return train, test


def without_shared_prompts(train: Sequence[P], test: Sequence[Prompted]) -> tuple[list[P], int]:
    """What of `train` has no prompt of a family that stands in `test`, and how many were dropped."""
    everything: list[Prompted] = [*train, *test]
    families = prompt_families([prompt_text(item) for item in everything])
    tested = set(families[len(train) :])
    kept = [item for item, family in zip(train, families[: len(train)], strict=True) if family not in tested]
    return kept, len(train) - len(kept)


def prompt_text(item: Prompted) -> str:
    """All that was said before the reply, but the system message: it makes no other question of the same words."""
    return "\n".join(message.content for message in item.prompt if message.role != "system")


def normalised_prompt(prompt: str) -> str:
    """NFKC, case folded, without white space and punctuation."""
    # Folding can undo NFKC, hence twice.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
    return folded.translate(_KEPT)


class _KeptCharacters(dict[int, str | None]):
    """A table for `str.translate` that drops white space and punctuation; it learns characters as they come."""

    def __missing__(self, point: int) -> str | None:
        character = chr(point)
        dropped = character.isspace() or unicodedata.category(character).startswith("P")
        self[point] = None if dropped else character
        return self[point]


_KEPT = _KeptCharacters()


def _shingles(text: str) -> Shingles:
    """All 5-grams; of a shorter text the text itself."""
    return frozenset(text[start : start + SHINGLE_LENGTH] for start in range(max(len(text) - SHINGLE_LENGTH + 1, 1)))


def _joined(sets: Sequence[Shingles]) -> list[int]:
    """The root of each set's family."""
    families = _Families(len(sets))
    counts = Counter(shingle for shingles in sets for shingle in shingles)
    # Sets that have a shingle among their first ones, by their family as far as it is known.
    index: dict[str, dict[int, list[int]]] = defaultdict(dict)
    # From small to large: then a set that is already in the index is never the larger one of a pair.
    for place in sorted(range(len(sets)), key=lambda place: len(sets[place])):
        shingles = sets[place]
        ordered = sorted(shingles, key=lambda shingle: (counts[shingle], shingle))
        for shingle in ordered[: _probed(len(shingles))]:
            if shingle in index:
                _join_near(place, ordered, _regrouped(index[shingle], families), sets, families)
        for shingle in ordered[: _indexed(len(shingles))]:
            index[shingle].setdefault(families.root(place), []).append(place)
    return [families.root(place) for place in range(len(sets))]


def _probed(size: int) -> int:
    """How many first shingles of a set are looked up: near sets share 0.9 of it, so one of these is among them."""
    share, whole = NEAR
    return size - -(-share * size // whole) + 1


def _indexed(size: int) -> int:
    """How many first shingles of a set are indexed: fewer, as a near set that is no smaller shares more of it.

    Jaccard j = shared / (a + b - shared) gives shared = j (a + b) / (1 + j), at least 2 j a / (1 + j) where b >= a.
    """
    share, whole = NEAR
    return size - -(-2 * share * size // (whole + share)) + 1


def _regrouped(groups: dict[int, list[int]], families: "_Families") -> dict[int, list[int]]:
    """The groups under the roots that their families have by now."""
    for old in list(groups):
        root = families.root(old)
        if root != old:
            groups.setdefault(root, []).extend(groups.pop(old))
    return groups


def _join_near(
    place: int, ordered: list[str], groups: dict[int, list[int]], sets: Sequence[Shingles], families: "_Families"
) -> None:
    """Join the set with each family that has a near one in the groups; one near one is enough."""
    for root, group in groups.items():
        if root != families.root(place) and any(_near(ordered, sets[other]) for other in reversed(group)):
            families.join(place, root)


def _near(ordered: list[str], other: Shingles) -> bool:
    """Whether two sets are near; of the one that is given in order, most shingles that are not shared come first."""
    share, whole = NEAR
    needed = -(-share * (len(ordered) + len(other)) // (whole + share))
    may_miss = len(ordered) - needed
    if may_miss < 0 or len(other) < needed:
        return False
    for shingle in ordered:
        if shingle not in other:
            may_miss -= 1
            if may_miss < 0:
                return False
    return True


class _Families:
    """Disjoint sets of numbers, joined as near pairs are found."""

    def __init__(self, count: int) -> None:
        self.parents = list(range(count))

    def root(self, place: int) -> int:
        while self.parents[place] != place:
            # Halving the path keeps later walks short.
            self.parents[place] = place = self.parents[self.parents[place]]
        return place

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.root(one), self.root(other)))
        self.parents[second] = first
