"""Which documents are held out, and how often each one is used; both follow from content hashes and from nothing else.

In: the ids, languages, sources and sizes of the documents that are left. Out: a set of ids, and a count for each id.
How files are laid out, named or ordered changes neither.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from danlu.run.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the choices need to know of a document."""

    id: str
    source: str
    language: str
    size: int


def held_out(entries: Iterable[Entry], share: float, seed: int) -> set[str]:
    """Ids for validation: in each language, in the order of their hashes, documents that fit into `share` of its bytes.

    A quota of bytes, because documents differ in size a thousandfold: two percent of the documents can be a fifth of a
    percent of the text. One document at least where there are two.
    """
    by_language: dict[str, list[Entry]] = defaultdict(list)
    drawn = sorted(entries, key=lambda entry: (derive_seed(seed, "validation", entry.id), entry.id))
    for entry in drawn:
        by_language[entry.language].append(entry)
    chosen: set[str] = set()
    for members in by_language.values():
        room = share * sum(entry.size for entry in members)
        for entry in members:
            if entry.size <= room:
                chosen.add(entry.id)
                room -= entry.size
    if not chosen and share > 0 and len(drawn) > 1:
        chosen.add(drawn[0].id)
    return chosen


def copies(ids: Iterable[str], weight: float, seed: int) -> dict[str, int]:
    """How often each document of a source is used: `weight` times their number in all, exactly (rounded to a whole).

    Every document gets the whole part of the weight; the rest goes to those of smallest hash, one each.
    """
    drawn = sorted(ids, key=lambda name: (derive_seed(seed, "copies", name), name))
    whole = int(weight)
    extra = round(weight * len(drawn)) - whole * len(drawn)
    return {name: whole + (rank < extra) for rank, name in enumerate(drawn)}
