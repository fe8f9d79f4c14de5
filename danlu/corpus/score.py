"""One raw record to one scored document: decode, extract, language, then every score; no threshold is applied here.

In: a `Record`. Out: a row of the scored table. A record from which no text can be had carries the step and the reason;
whether any other document is kept is decided later, from its row.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from danlu.corpus.charset import UndecodableError, decode_html, decode_text
from danlu.corpus.config import CODE, CorpusConfig
from danlu.corpus.duplicates.near import exact_number
from danlu.corpus.duplicates.paragraphs import paragraph_numbers
from danlu.corpus.extract import extract, page_facts, tidy
from danlu.corpus.inputs import PAGE, SOURCE_CODE
from danlu.corpus.language import identify, is_code, other_share, script
from danlu.corpus.records import Record
from danlu.corpus.scores import personal_data, rules
from danlu.corpus.scores.classifier import languages_of as classifier_languages
from danlu.corpus.scores.classifier import open_classifier
from danlu.corpus.scores.contamination import contamination, open_items
from danlu.corpus.scores.perplexity import languages_of as perplexity_languages
from danlu.corpus.scores.perplexity import open_model, perplexity
from danlu.corpus.scores.safety import CLASSES, safety_scores
from danlu.corpus.tokens import comparable, content_hash

TEXTS = (
    "record", "source", "kind", "url", "title", "date", "language", "script", "encoding", "id", "step", "reason",
    "contaminated_by", "text",
)  # fmt: skip
"""Columns of the scored table that hold text; `step` and `reason` are null for a document that has a text."""
COUNTS = ("offset", "size", "tokens", "letters", "personal_data")
"""Columns that hold whole numbers: bytes of the file before the record, bytes of UTF-8, tokens, letters, and how many
pieces of personal data there were."""
RULE_SCORES = tuple(rules.measure("", "en"))
MODEL_SCORES = ("perplexity", "quality", *CLASSES)
SCORES = ("language_confidence", "other_language", "contamination", *MODEL_SCORES, *RULE_SCORES)
"""Columns that hold scores; NaN where there is no model for it."""
GOOD = "good"
"""The class of `train-quality` whose probability is the score `quality`."""


@dataclass(frozen=True)
class Scorer:
    """Everything that scoring needs, small enough to be sent to another process."""

    config: CorpusConfig
    items: Path | None
    """What `contamination.save_items` wrote."""

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What the recipe says that a source is."""
        return {name: source.kind for name, source in self.config.sources.items()}

    def open_models(self) -> None:
        """Open every model that a document may need. Raises UserError for one that is broken."""
        config = self.config
        if config.perplexity_models is not None:
            for language in perplexity_languages(config.perplexity_models):
                open_model(config.perplexity_models, language)
        for folder in filter(None, (config.quality_models, config.safety_models)):
            for language in classifier_languages(folder):
                open_classifier(folder, language)
        if self.items is not None:
            open_items(self.items)

    def row(self, record: Record) -> dict[str, Any]:
        """The scored row; `token_text`, for the signature, and `paragraphs` are part of it."""
        row = blank_row(record) | {"kind": self.kinds.get(record.source, "auto")}
        if record.problem:
            return row | {"step": "read", "reason": record.problem}
        try:
            is_page = record.kind == PAGE
            content, row["encoding"] = (
                decode_html(record.body, record.content_type) if is_page else decode_text(record.body)
            )
        except UndecodableError:
            return row | {"step": "read", "reason": "invalid_encoding"}
        # A lone half of a surrogate pair has no UTF-8 form: it becomes "?".
        content = content.encode("utf-8", "replace").decode()
        if record.kind == PAGE:
            facts = page_facts(content)
            row |= {name: row[name] or facts[name] for name in ("title", "date")}
            if row["url"] == record.record:
                row["url"] = facts["url"] or row["url"]
        text = extract(content, self.config.extractor) if record.kind == PAGE else tidy(content)
        if not text.strip():
            return row | {"step": "extract", "reason": "empty"}
        return row | self.scored(text, row["kind"], record)

    def scored(self, text: str, kind: str, record: Record) -> dict[str, Any]:
        """The columns of a document that has a text."""
        found: dict[str, Any] = {"kind": self.kind_of(kind, record, text)}
        if found["kind"] == "code":
            language, found["language_confidence"] = CODE, 1.0
        else:
            language, found["language_confidence"] = identify(text)
            found["other_language"] = other_share(text, language)
        unmasked, treatment = text, self.config.safety.personal_data
        if language != CODE and treatment != "keep":
            masked, found["personal_data"] = personal_data.mask(text)
            text = masked if treatment == "mask" else text
        words = comparable(text)
        found |= {
            "text": text, "id": content_hash(text), "size": len(text.encode("utf-8", "replace")), "language": language,
            "script": script(text) if language == "zh" else "", "tokens": len(words),
            "letters": sum(map(str.isalpha, text)), "key": exact_number(text, words, language),
            "token_text": " ".join(words), "paragraphs": self.paragraphs(text, language),
        }  # fmt: skip
        found |= rules.measure(text, language) | self.by_models(text, words, language)
        if self.items is not None:
            # Before personal data were masked: an item may hold some.
            found["contamination"], found["contaminated_by"] = contamination(open_items(self.items), unmasked)
        return found

    def kind_of(self, kind: str, record: Record, text: str) -> str:
        """What the document is: as its source's table says, else by its format and, for code, by its content."""
        if kind != "auto":
            return kind
        if record.kind == SOURCE_CODE or (record.kind != PAGE and is_code(text)):
            return "code"
        return "web" if record.kind == PAGE else "other"

    def paragraphs(self, text: str, language: str) -> list[int]:
        return [] if language == CODE else paragraph_numbers(text, self.config.min_paragraph_characters)

    def by_models(self, text: str, words: list[str], language: str) -> dict[str, Any]:
        """Scores by lists and by what was trained."""
        scores: dict[str, Any] = {}
        if language != CODE:
            scores |= safety_scores(text, words, language, self.config.safety_models)
            if self.config.perplexity_models is not None:
                scores["perplexity"] = perplexity(self.config.perplexity_models, language, words)
            if self.config.quality_models is not None:
                classifier = open_classifier(self.config.quality_models, language)
                scores["quality"] = classifier.scores(words)[GOOD] if classifier else None
        return scores


def blank_row(record: Record) -> dict[str, Any]:
    """A row that says what is known of a record before it is read."""
    row: dict[str, Any] = dict.fromkeys(TEXTS, "") | dict.fromkeys(COUNTS, 0) | dict.fromkeys(SCORES)
    row |= {name: getattr(record, name) for name in ("record", "source", "url", "title", "date", "offset")}
    # A record without a text has an id by its address, so that many of them do not all lie in one part of the result.
    row |= {"id": content_hash(f"\0{record.record}"), "language": "unknown", "step": None, "reason": None}
    return row | {"key": 0, "token_text": "", "paragraphs": []}
