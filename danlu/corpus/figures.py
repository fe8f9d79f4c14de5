"""What the corpus build measured: the funnel by source and language, clusters, and which examples are shown.

In: the index and what was decided. Out: objects for `figures.json` and `examples.json`. Every record that was read is
counted once, so documents in = kept + dropped by each reason, exactly, at every step.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from danlu.corpus.choose import NOBODY, Fates, Histograms, Index
from danlu.corpus.config import CorpusConfig
from danlu.corpus.duplicates.minhash import found_share
from danlu.corpus.pieces import EXCERPT_CHARACTERS
from danlu.corpus.table import read_scattered
from danlu.corpus.thresholds import STEPS

EXAMPLES_EACH = 3
"""Examples kept for each reason and each language. Our choice: a reader looks at two or three."""
CLUSTERS_SHOWN = 5
SIMILARITIES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Where the curve of the chosen bands is drawn."""


def figures(
    index: Index, fates: Fates, config: CorpusConfig, files: int, passed_over: int, histograms: Histograms
) -> dict[str, Any]:
    """The object written to `figures.json`; sizes are bytes of UTF-8, tokens words (characters in Chinese).

    `steps` is the funnel: what each step left, and by source and by language, what came to it and what it dropped.
    """
    rows = slice(0, index.num_rows)
    reason, step = index.reason[rows], index.step[rows]
    kept = reason == 0
    dropped = {name: int((reason == code).sum()) for code, name in enumerate(index.reasons) if name}
    dropped = {name: count for name, count in sorted(dropped.items()) if count}
    assert index.num_rows == int(kept.sum()) + sum(dropped.values()), (index.num_rows, int(kept.sum()), dropped)
    return {
        "files": files,
        "files_passed_over": passed_over,
        "documents_in": index.num_rows,
        "documents_kept": int(kept.sum()),
        "dropped": dropped,
        "steps": funnel(index, fates, step),
        "sources": {
            name: {
                "kept": int((kept & (index.source[rows] == code)).sum()),
                "dropped": counted(index, (index.source[rows] == code) & ~kept),
            }
            for code, name in sorted(enumerate(index.sources), key=lambda item: item[1])
            if (index.source[rows] == code).any()
        },
        **{
            split: languages(index, kept & (fates.is_held_out[rows] == is_held_out), fates.final_size)
            for split, is_held_out in SPLITS
        },
        "near_duplicates": near_duplicates(index, fates, config),
        "paragraphs_removed": sum(map(len, fates.paragraphs.values())),
        "personal_data": int(index.personal_data[rows][kept].sum()),
        "histograms": histograms.figures(),
        "thresholds": thresholds(config),
        "warnings": warnings(index, config),
    }


SPLITS = (("train", False), ("validation", True))


def counted(index: Index, chosen: np.ndarray) -> dict[str, int]:
    """How many of the chosen rows each reason dropped, by name."""
    counts = np.bincount(index.reason[: index.num_rows][chosen], minlength=len(index.reasons))
    return {
        name: int(counts[code]) for code, name in sorted(enumerate(index.reasons), key=lambda i: i[1]) if counts[code]
    }


def funnel(index: Index, fates: Fates, step: np.ndarray) -> list[dict[str, Any]]:
    """Documents, bytes and tokens after each step, in all, by source and by language."""
    rows = slice(0, index.num_rows)
    order = {name: number for number, name in enumerate(STEPS)}
    # The number of the step that dropped each row; what stays has passed them all.
    dropped_at = np.array([order.get(name, len(STEPS)) for name in index.steps])[step]
    found = []
    for number, name in enumerate(STEPS):
        left = dropped_at > number
        size = fates.final_size if name == "paragraphs" else index.size
        entry = {"step": name, "dropped": int((dropped_at == number).sum()), **sums(index, left, size)}
        for kind, codes, names in (
            ("sources", index.source[rows], index.sources), ("languages", index.language[rows], index.languages),
        ):  # fmt: skip
            entry[kind] = {
                label: sums(index, left & (codes == code), size)
                for code, label in sorted(enumerate(names), key=lambda i: i[1])
            }
        found.append(entry)
    return found


def sums(index: Index, chosen: np.ndarray, size: np.ndarray) -> dict[str, int]:
    rows = slice(0, index.num_rows)
    return {
        "documents": int(chosen.sum()), "bytes": int(size[rows][chosen].sum()),
        "tokens": int(index.tokens[rows][chosen].sum()),
    }  # fmt: skip


def languages(index: Index, chosen: np.ndarray, size: np.ndarray) -> dict[str, dict[str, int]]:
    """Documents and bytes by language."""
    code = index.language[: index.num_rows]
    by_name = {name: sums(index, chosen & (code == number), size) for number, name in enumerate(index.languages)}
    return {
        what: {name: values[what] for name, values in sorted(by_name.items()) if values["documents"]}
        for what in ("documents", "bytes", "tokens")
    }


def near_duplicates(index: Index, fates: Fates, config: CorpusConfig) -> dict[str, Any]:
    """Clusters found: how many, the largest one's size and its lowest similarity to the document that stays; the
    largest group that candidates alone would chain together; and how likely a pair of each similarity is found."""
    gone = fates.near
    found: dict[str, Any] = {"clusters": 0, "largest": 0, "lowest_similarity": None}
    if len(gone):
        keepers, inverse, sizes = np.unique(fates.keeper[gone], return_inverse=True, return_counts=True)
        largest = int(np.argmax(sizes))
        lowest = float(fates.similarity[gone][inverse == largest].min())
        found = {"clusters": len(keepers), "largest": int(sizes[largest]) + 1, "lowest_similarity": round(lowest, 4)}
    curve = [[similarity, round(found_share(similarity, config.minhash), 4)] for similarity in SIMILARITIES]
    return found | {"candidates": fates.candidates, "largest_chain": fates.largest_component, "curve": curve}


def thresholds(config: CorpusConfig) -> dict[str, Any]:
    """The bounds that belong to the histograms: by score, for every language (`*`) or for one."""
    return {
        "language_confidence": {"*": config.min_language_confidence},
        "perplexity": config.quality.max_perplexity,
        "quality": config.quality.min_classifier,
        "violence": {"*": config.safety.max_violence},
        "hate": {"*": config.safety.max_hate},
        "pornography": {"*": config.safety.max_pornography},
        "contamination": {"*": config.decontamination.threshold},
    }


def warnings(index: Index, config: CorpusConfig) -> list[str]:
    """Sources that are gone altogether, and those of which the near-duplicate step took a large share."""
    told = []
    rows = slice(0, index.num_rows)
    for code, name in sorted(enumerate(index.sources), key=lambda item: item[1]):
        mine = index.source[rows] == code
        total, kept = int(mine.sum()), int((mine & (index.reason[rows] == 0)).sum())
        why = counted(index, mine & (index.reason[rows] != 0))
        if total and not kept:
            worst = ", ".join(f"{reason} {count}" for reason, count in sorted(why.items(), key=lambda i: -i[1])[:3])
            told.append(f"all {total} documents of the source `{name}` were dropped ({worst})")
        elif why.get("near_duplicate", 0) > config.warn_source_loss * total:
            told.append(f"near-duplicates took {why['near_duplicate']} of {total} documents of `{name}`")
    return told


def examples(index: Index, fates: Fates) -> dict[str, Any]:
    """Documents to show: of each language some that stay, of each reason some that went, and the largest clusters.

    Those of smallest id are taken, which no order of the input changes.
    """
    rows = np.arange(index.num_rows)
    order = rows[np.lexsort((index.address[rows], index.id_low[rows], index.id_high[rows]))]
    kept = {
        name: first(order, (index.language[order] == code) & (index.reason[order] == 0))
        for code, name in enumerate(index.languages)
    }
    dropped = {name: first(order, index.reason[order] == code) for code, name in enumerate(index.reasons) if name}
    clusters = largest_clusters(index, fates)
    wanted = np.unique(np.concatenate([*kept.values(), *dropped.values(), *clusters]).astype(np.int64))
    shown = dict(excerpts(index, fates, wanted))

    def all_of(groups: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        return {
            name: [shown[place] for place in places.tolist()] for name, places in sorted(groups.items()) if len(places)
        }

    return {
        "kept": all_of(kept), "dropped": all_of(dropped),
        "clusters": [[shown[place] for place in cluster.tolist()] for cluster in clusters],
    }  # fmt: skip


def first(order: np.ndarray, holds: np.ndarray) -> np.ndarray:
    return order[np.flatnonzero(holds)[:EXAMPLES_EACH]]


def largest_clusters(index: Index, fates: Fates) -> list[np.ndarray]:
    """The largest clusters of near-duplicates: the document that stays, and the least similar of those that go."""
    gone = fates.near
    keepers, sizes = np.unique(fates.keeper[gone], return_counts=True)
    by_size = sorted(
        zip(sizes.tolist(), index.ids(keepers), keepers.tolist(), strict=True), key=lambda c: (-c[0], c[1])
    )
    found = []
    for _, _, keeper in by_size[:CLUSTERS_SHOWN]:
        members = gone[fates.keeper[gone] == keeper]
        least = members[np.lexsort((index.id_low[members], fates.similarity[members]))[: EXAMPLES_EACH - 1]]
        found.append(np.concatenate([[keeper], least]))
    return found


def excerpts(index: Index, fates: Fates, places: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """An example for each place: what it is, how it begins, and for a duplicate what stays instead."""
    names = ["id", "source", "url", "text"]
    is_own = places < index.num_rows
    # The documents of an earlier build have no such column.
    for mine, columns in ((places[is_own], [*names, "contaminated_by"]), (places[~is_own], names)):
        for at, row in read_scattered(index.scored, index.partition[mine], index.row[mine], columns):
            place = int(mine[at])
            example = {name: row[name] for name in ("id", "source", "url")}
            example["language"] = index.languages[index.language[place]]
            example["excerpt"] = row["text"][:EXCERPT_CHARACTERS]
            if row.get("contaminated_by") and index.reasons[index.reason[place]] == "contaminated":
                example["contaminated_by"] = row["contaminated_by"]
            if fates.keeper[place] != NOBODY:
                example["keeper"] = index.ids(fates.keeper[place : place + 1])[0]
                if not np.isnan(fates.similarity[place]):
                    example["similarity"] = float(fates.similarity[place])
            yield place, example
