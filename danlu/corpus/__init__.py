"""From raw material to clean, weighted documents (the report's section on data).

Read in this order: config; sources and fetch (the demo's material); inputs and records (what comes in, in any format);
charset, main_text, extract, language (a page to text); score and scores/ (what is measured of it), child (the process
that does so and can be lost), table (scored rows on disk); thresholds, duplicates/, choose, split (what stays); pieces
and plan (the work as Daft hands it out); build, figures, estimate, earlier; train (the models that score).
The doors below load their libraries on first use, so that importing this package stays quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.corpus.duplicates.near import near_duplicates
    from danlu.corpus.extract import extract_text

__all__ = ["extract_text", "near_duplicates"]


def __getattr__(name: str) -> Any:
    if name == "extract_text":
        from danlu.corpus.extract import extract_text

        return extract_text
    if name == "near_duplicates":
        from danlu.corpus.duplicates.near import near_duplicates

        return near_duplicates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
