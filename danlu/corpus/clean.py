"""One raw record to one judged document: decode, extract, language, quality, in this order.

In: a record's fields. Out: the columns of the prepared table. A dropped document keeps only an excerpt of its text.
"""

from dataclasses import dataclass
from typing import Any

from danlu.corpus import quality
from danlu.corpus.charset import UndecodableError, decode_html, decode_text
from danlu.corpus.config import CODE, CorpusConfig
from danlu.corpus.dedup import content_hash, exact_key
from danlu.corpus.extract import extract, tidy
from danlu.corpus.language import identify
from danlu.corpus.records import PAGE, SOURCE_CODE

EXCERPT_CHARACTERS = 300
"""How much of a document is shown in the report's examples."""
STEPS = ("read", "extract", "language", "quality", "exact_duplicates", "near_duplicates")
"""The steps that can drop a document, in order. Quality comes before duplicates, so that a bad copy cannot take a good
one's place."""
SCORES = tuple(quality.measure("", "en"))


@dataclass(kw_only=True)
class Document:
    """A judged document; `step` and `reason` say where and why it was dropped, None for one that goes on."""

    id: str = ""
    text: str = ""
    key: str = ""
    language: str = "unknown"
    language_confidence: float = 0.0
    encoding: str = ""
    step: str | None = None
    reason: str | None = None
    size: int = 0
    scores: dict[str, float] | None = None

    def dropped(self, step: str, reason: str) -> "Document":
        self.step, self.reason = step, reason
        return self

    def columns(self) -> dict[str, Any]:
        """The document as a row; the text of a dropped one is cut to an excerpt."""
        row = {name: getattr(self, name) for name in FIELDS}
        row["text"] = self.text[:EXCERPT_CHARACTERS] if self.reason else self.text
        return row | {f"score_{name}": (self.scores or {}).get(name, 0.0) for name in SCORES}


FIELDS = ("id", "text", "key", "language", "language_confidence", "encoding", "step", "reason", "size")


def clean(kind: str, body: bytes, content_type: str | None, problem: str | None, config: CorpusConfig) -> Document:
    """Judge one record."""
    document = Document(id=content_hash(""))
    if problem:
        return document.dropped("read", problem)
    try:
        text, document.encoding = decode_html(body, content_type) if kind == PAGE else decode_text(body)
    except UndecodableError:
        return document.dropped("read", "invalid_encoding")
    text = extract(text, config.extractor) if kind == PAGE else tidy(text)
    document.text, document.id, document.size = text, content_hash(text), len(text.encode("utf-8", "replace"))
    if not text.strip():
        return document.dropped("extract", "empty")
    return judge(document, kind, config)


def judge(document: Document, kind: str, config: CorpusConfig) -> Document:
    """Language and quality of a document that has a text."""
    if kind == SOURCE_CODE:
        document.language, document.language_confidence = CODE, 1.0
    else:
        found = identify(document.text, config.min_language_letters, config.min_language_confidence)
        document.language, document.language_confidence = found
    if document.language not in config.languages:
        return document.dropped("language", "language_unknown" if document.language == "unknown" else "other_language")
    document.scores = quality.measure(document.text, document.language)
    reason = quality.verdict(document.scores, document.text, document.language, kind == PAGE, config.quality)
    if reason:
        return document.dropped("quality", reason)
    document.key = exact_key(document.text, document.language)
    return document
