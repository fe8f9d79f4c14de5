"""Which documents are held out; that follows from content hashes and from nothing else.

In: the ids, languages and sizes of the documents that are left. Out: whether each is held out. How files are laid out,
named or ordered does not change it.
"""

from collections import defaultdict
from collections.abc import Sequence

from danlu.run.seeds import derive_seed


def held_out(ids: Sequence[str], languages: Sequence[str], sizes: Sequence[int], share: float, seed: int) -> list[bool]:
    """For each document whether it is for validation: in each language, in the order of their hashes, documents that
    fit into `share` of its bytes.

    A quota of bytes, because documents differ in size a thousandfold: two percent of the documents can be a fifth of a
    percent of the text. One document at least where there are two.
    """
    drawn = sorted(range(len(ids)), key=lambda place: (derive_seed(seed, "validation", ids[place]), ids[place]))
    by_language: dict[str, list[int]] = defaultdict(list)
    for place in drawn:
        by_language[languages[place]].append(place)
    chosen = [False] * len(ids)
    for members in by_language.values():
        room = share * sum(sizes[place] for place in members)
        for place in members:
            if sizes[place] <= room:
                chosen[place] = True
                room -= sizes[place]
    if not any(chosen) and share > 0 and len(drawn) > 1:
        chosen[drawn[0]] = True
    return chosen
