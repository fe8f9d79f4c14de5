"""The chapter on comparisons: what the chat model said, and the pairs that the reward model learns from.

In: the run's summary (stages `responses` and `comparisons`). Out: plain values for `templates/comparisons.html.j2`.
"""

from pathlib import Path

from danlu.report.chapters import Figures, share, total
from danlu.report.formatting import is_number
from danlu.report.labels import FILES, LANGUAGES, SKILLS, SOURCES, VERDICTS, in_order, label


def comparisons(run: Path, summary: Figures) -> Figures:
    """Responses by skill and verdict, pairs by file, source and language, noise, length, examples."""
    figures = summary.get("comparisons", {})
    counts, turned = figures.get("counts", {}), figures.get("turned_pairs")
    examples = figures.get("examples", {})
    return {
        "figures": figures,
        "responses": summary.get("responses", {}),
        "verdicts": verdict_rows(figures.get("responses", {})),
        **count_rows(counts),
        "turned_share": share(turned, pairs_in(counts.get("pmp", {}))),
        "length": length_rows(figures.get("length_bias", {})),
        "prompts": total(figures.get("prompts", {})) or None,
        "examples": [(label(SOURCES, name), examples[name]) for name in in_order(SOURCES, set(examples))],
    }


def pairs_in(counts: Figures) -> float:
    """Comparisons of one file, given by source and language."""
    return sum(total(languages) for languages in counts.values())


def verdict_rows(responses: Figures) -> list[Figures]:
    """Shares of right, wrong, unfinished and empty responses of each skill; of all in the last row."""
    every: Figures = {
        verdict: sum(counts.get(verdict, 0) for counts in responses.values() if is_number(counts.get(verdict, 0)))
        for verdict in VERDICTS
    }
    rows = [(label(SKILLS, name), responses[name]) for name in in_order(SKILLS, set(responses))]
    rows += [(label(LANGUAGES, "all"), every)] if rows else []
    return [
        {"label": name, "responses": total(counts)}
        | {verdict: share(counts.get(verdict, 0), total(counts)) for verdict in VERDICTS}
        for name, counts in rows
    ]


def count_rows(counts: Figures) -> Figures:
    """Comparisons with the files side by side: a row for each source, for each language, and for all."""
    files = in_order(FILES, set(counts))
    sources = in_order(SOURCES, {source for name in files for source in counts[name]})
    languages = in_order(LANGUAGES, {key for name in files for values in counts[name].values() for key in values})
    return {
        "files": [label(FILES, name) for name in files],
        "by_source": [
            (label(SOURCES, source), [total(counts[name].get(source, {})) for name in files]) for source in sources
        ],
        "by_language": [
            (label(LANGUAGES, key), [sum(values.get(key, 0) for values in counts[name].values()) for name in files])
            for key in languages
        ],
        "all": [pairs_in(counts[name]) for name in files],
    }


def length_rows(bias: Figures) -> list[Figures]:
    """Of each file, how often the chosen reply is the longer one, and the same of its sources under `sources`."""
    rows = []
    for name in in_order(FILES, set(bias)):
        sources = {key: values for key, values in bias[name].items() if key != "all"}
        rows.append(
            {"label": label(FILES, name), **bias[name].get("all", {})}
            | {"sources": [{"label": label(SOURCES, key), **sources[key]} for key in in_order(SOURCES, set(sources))]}
        )
    return rows
