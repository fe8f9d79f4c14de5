"""Which documents are held out; that follows from content hashes and from nothing else.

In: the ids, languages and sizes of the documents that are left. Out: a set of ids. How files are laid out, named or
ordered does not change it.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from danlu.run.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the choices need to know of a document."""

    id: str
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
