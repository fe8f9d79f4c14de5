"""What the corpus stages can be told: the values, their meaning, units and sources. Imports no heavy library."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LABELS = """
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de
    diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo
    io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms
    mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn
    sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf
    yi yo yue zh"""
COUNTED_AS_CHINESE = frozenset(["yue", "wuu"])
"""Labels counted as `zh`: written Cantonese and Wu share its characters, and news is misread as them."""
KNOWN_LANGUAGES = frozenset(LABELS.split()) - COUNTED_AS_CHINESE
"""The codes of the language model (fastText lid.176) that a document can be given."""

CODE = "code"
"""The language of source files, known by their extension or by what stands in them."""
EXTRACTORS = ("fast", "balanced", "quality")
KINDS = ("auto", "web", "encyclopaedia", "books", "code", "other")
"""What a source can be. `auto` takes each record for what its format says: a page is web, a source file is code."""
PERSONAL_DATA = ("mask", "drop", "keep")
SOURCE_NAMES = ("chinese-web", "english-web", "peoples-daily", "novel", "django-docs", "python-stdlib")


def check_known(kind: str, values: tuple[str, ...], known: list[str]) -> None:
    """Raise ValueError for a value that is not known, listing those that are."""
    if not values:
        raise ValueError(f"no {kind} is named; known: {', '.join(known)}")
    for value in values:
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"unknown {kind} `{value}`{hint} Known: {', '.join(known)}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError when `value` is not a share between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """`danlu corpus fetch`: the demo's raw material."""

    out: Path = Path("runs/fetch")
    """Folder of the result: `raw/SOURCE/...` and `figures.json`."""
    cache: Path = Path("cache/downloads")
    """Folder that keeps downloaded archives."""
    sources: tuple[str, ...] = SOURCE_NAMES
    """Names of the sources to fetch; see danlu/corpus/sources.py for what each one is."""
    code_megabytes: float = 3.8
    """MB (1e6 bytes) of source code taken from the Python on this machine. 3.8 as in the study of the demo's size."""

    def __post_init__(self) -> None:
        check_known("source", self.sources, list(SOURCE_NAMES))
        check_positive(self, "code_megabytes")


def check_positive(table: Any, *names: str) -> None:
    """Raise ValueError for a field that is not above 0."""
    for name in names:
        if getattr(table, name) <= 0:
            raise ValueError(f"{name} is {getattr(table, name)}, it must be positive")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of raw material: a table `[corpus.sources.NAME]` of the recipe."""

    path: str = ""
    """File, folder or pattern, here or in an object store (`s3://bucket/crawl/*.warc.gz`); empty for the folder NAME
    below `input`. Object stores need the package that fsspec names for them, such as s3fs."""
    kind: str = "auto"
    """`web` (C4's rules for pages hold), `encyclopaedia`, `books` (no upper bound of length), `code` (the language is
    `code`), `other`; `auto` goes by each record's format."""
    weight: float = 1.0
    """How often the source's documents are used."""
    languages: tuple[str, ...] = ()
    """Languages to keep of this source; none named: those of the whole corpus."""

    def __post_init__(self) -> None:
        check_known("kind of source", (self.kind,), list(KINDS))
        if self.languages:
            check_known("language", self.languages, [CODE, *sorted(KNOWN_LANGUAGES)])
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of a source is {self.weight}, it must not be negative")


@dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    """Near-duplicates: MinHash signatures, locality-sensitive hashing, verification."""

    ngram: int = 5
    """Tokens in one shingle (words in spaced scripts, characters in Chinese). 5 as in FineWeb; shorter ones make
    unrelated documents alike."""
    bands: int = 14
    """Bands of the signature; documents that share one whole band are compared. 14 x 8 as in FineWeb: a pair of
    similarity 0.8 is found with probability 1 - (1 - 0.8^8)^14 = 0.92."""
    rows: int = 8
    """Hashes in a band."""
    threshold: float = 0.8
    """Jaccard similarity of shingle sets, computed exactly, from which a document is a near duplicate of the kept."""
    seed: int = 1
    """Seed of the hash functions."""
    largest_bucket: int = 200
    """In a larger bucket every document is compared with this many members (the best of them) only, so that a shared
    template cannot make the work quadratic. Our choice."""
    memory_megabytes: float = 1000.0
    """MB (1e6 bytes) of shingles held at once while candidates are verified; more candidates take more passes over
    their texts. Our choice."""

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows", "largest_bucket", "memory_megabytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"minhash {name} is {getattr(self, name)}, it must be at least 1")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"minhash threshold is {self.threshold}, it must be above 0 and at most 1")

    @property
    def num_hashes(self) -> int:
        return self.bands * self.rows

    @property
    def made_with(self) -> list[int]:
        """What signatures that can be compared have in common."""
        return [self.ngram, self.bands, self.rows, self.seed]


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Rules of Gopher (arXiv 2112.11446, appendix A) and C4 (arXiv 1910.10683), with Chinese counterparts."""

    min_words: int = 50
    """Words of a document at least. Gopher."""
    max_words: int = 100_000
    """Words of a document at most. Gopher."""
    min_mean_word_length: float = 3.0
    """Letters a word on average at least; not for Chinese. Gopher."""
    max_mean_word_length: float = 10.0
    """Letters a word on average at most; not for Chinese. Gopher."""
    min_characters_zh: int = 50
    """Chinese characters of a Chinese document at least. Our choice: about 30 words; a short news item has 60."""
    max_characters_zh: int = 200_000
    """Chinese characters of a Chinese document at most: Gopher's 100,000 words at about two characters a word."""
    max_symbol_ratio: float = 0.1
    """`#` and ellipses per word (per character in Chinese) at most. Gopher."""
    max_bullet_lines: float = 0.9
    """Share of lines that begin with a bullet at most. Gopher."""
    max_ellipsis_lines: float = 0.3
    """Share of lines that end in an ellipsis at most. Gopher."""
    min_alphabetic_words: float = 0.8
    """Share of words with a letter at least. Gopher."""
    min_alphabetic_zh: float = 0.5
    """Share of letters among the visible characters of a Chinese document at least. Our counterpart of the rule above;
    measured on the newspaper: median 0.88, 1st percentile 0.72."""
    min_stop_words: int = 2
    """Different stop words (the, be, to, of, and, that, have, with; in Chinese function characters such as 的 了 之)
    at least. Gopher."""
    max_duplicate_lines: float = 0.30
    """Share of lines that repeat an earlier one at most. Gopher."""
    max_duplicate_line_characters: float = 0.20
    """Share of characters in such lines at most. Gopher."""
    max_top_ngram: tuple[float, float, float] = (0.20, 0.18, 0.16)
    """Share of characters in the most frequent 2-, 3- and 4-gram at most. Gopher."""
    max_duplicate_ngrams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of characters in repeated 5- to 10-grams at most. Gopher."""
    min_sentences: int = 3
    """Sentences of a web page at least. C4."""
    max_curly_ratio: float = 0.01
    """Share of braces among the characters of a web page at most. C4 drops a page for a single one, which would drop
    every page about programming; our choice."""
    max_code_line: int = 1000
    """Longest line of a source file, in characters: longer ones are data or generated. As in The Stack's filters."""
    min_code_alphanumeric: float = 0.25
    """Share of letters and digits in a source file at least. As in The Stack's filters."""
    min_han_zh: float = 0.4
    """Share of Chinese characters among the visible ones of a Chinese document at least. Our choice: news has 0.8, a
    page of names, prices and addresses less than a third."""
    max_punctuation_zh: float = 0.3
    """Share of punctuation among the visible characters of a Chinese document at most. Our choice: prose has 0.1 to
    0.2."""
    max_boilerplate: float = 0.3
    """Share of characters at most in lines that hold nothing but words of navigation, imprint and the like ("登录",
    "版权所有", "Sign in"). Our choice."""
    max_perplexity: dict[str, float] = field(default_factory=dict)
    """Perplexity at most by language, under the models of `perplexity_models`; no bound for a language not named. A
    bound without a model stops the build."""
    min_classifier: dict[str, float] = field(default_factory=dict)
    """Probability at least, by language, that the classifier of `quality_models` gives for good text; likewise."""

    def __post_init__(self) -> None:
        shares = [
            "max_symbol_ratio", "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words", "min_alphabetic_zh",
            "max_duplicate_lines", "max_duplicate_line_characters", "max_curly_ratio", "min_code_alphanumeric",
            "min_han_zh", "max_punctuation_zh", "max_boilerplate",
        ]  # fmt: skip
        for name in shares:
            check_share(name, getattr(self, name))
        for value in (*self.max_top_ngram, *self.max_duplicate_ngrams):
            check_share("an n-gram share", value)
        for low, high in (("min_words", "max_words"), ("min_characters_zh", "max_characters_zh")):
            if not 0 <= getattr(self, low) <= getattr(self, high):
                raise ValueError(f"{low} must not be negative or above {high}")
        if len(self.max_duplicate_ngrams) != 6:
            raise ValueError("max_duplicate_ngrams needs six shares, for 5- to 10-grams")
        for language, value in self.min_classifier.items():
            check_share(f"min_classifier of `{language}`", value)


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Offensive text and personal data."""

    max_violence: float = 0.5
    """Score at most, 0 to 1, of text that threatens, incites or dwells on cruelty."""
    max_hate: float = 0.5
    """Of text that runs down people for what they are."""
    max_pornography: float = 0.5
    """Of pornographic text."""
    personal_data: str = "mask"
    """E-mail addresses, telephone, identity and card numbers, public IP addresses: `mask` puts a placeholder in their
    place, `drop` drops the document, `keep` leaves them. Source code is left as it is."""

    def __post_init__(self) -> None:
        for name in ("max_violence", "max_hate", "max_pornography"):
            check_share(name, getattr(self, name))
        check_known("treatment of personal data", (self.personal_data,), list(PERSONAL_DATA))


@dataclass(frozen=True, kw_only=True)
class DecontaminationConfig:
    """Documents that hold items of the evaluation sets (`evaluation_sets`) are dropped."""

    ngram: int = 13
    """Words (characters in Chinese: twice as many) of one n-gram. 13 as in GPT-3 (arXiv 2005.14165, appendix C)."""
    threshold: float = 0.5
    """Share of an item's n-grams at least that a document holds to be dropped. Our choice: an item wrapped, cut or
    changed in case holds nearly all, a famous quotation inside one few."""
    max_documents_an_ngram: int = 20
    """An n-gram that stands in more items than this is an instruction they share and no evidence. Our choice."""

    def __post_init__(self) -> None:
        check_positive(self, "ngram", "max_documents_an_ngram")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"decontamination threshold is {self.threshold}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """`danlu corpus build`: raw files to documents."""

    input: Path | None = Path("runs/fetch/raw")
    """Folder of raw files: `.html .txt .md .jsonl .parquet .warc`, source code, most of them also gzipped; the first
    folder below it names the source. None where every source lies elsewhere."""
    out: Path = Path("runs/corpus")
    """Folder of the result: `documents/train`, `documents/validation`, `dropped`, `signatures`, `figures.json`,
    `examples.json`, `manifest.json`."""
    cache: Path = Path("cache/corpus")
    """Folder of read and scored partitions, about as large as their texts: thresholds can be changed, and an
    interrupted build goes on, without reading a page again. On a cluster this and `out` are folders that all its
    machines see."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Settings by source; also sources that lie elsewhere."""
    extractor: str = "balanced"
    """HTML to main text: `fast` (running text among resiliparse's blocks), `quality` (what of it trafilatura finds
    too), `balanced` (the second where the first is unsure)."""
    page_seconds: float = 10.0
    """Processor seconds for one page at most; the process that reads it is ended then. Our choice: ordinary pages take
    a hundredth of a second."""
    page_megabytes: float = 2000.0
    """MB of memory for one page at most, likewise."""
    languages: tuple[str, ...] = ("zh", "en", CODE)
    """Languages to keep: fastText's codes, and `code` for source files."""
    min_language_confidence: float = 0.5
    """Probability of the language at least, else it is `unknown`. As in CCNet (arXiv 1911.00359)."""
    min_language_letters: int = 20
    """Letters a text needs before its language is judged. Our choice: single words are misread."""
    keep_mixed: bool = True
    """Keep documents of which a fifth or more is in another language than the rest."""
    max_document_megabytes: float = 10.0
    """MB (1e6 bytes) of one page, text or record at most; longer ones are skipped unread and counted."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Thresholds of the quality rules and scores."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    """Offensive text and personal data."""
    perplexity_models: Path | None = None
    """Folder that `danlu corpus train-lm` wrote, with a language model for each language it was trained on."""
    quality_models: Path | None = None
    """Folder that `danlu corpus train-quality` wrote from good and bad examples, likewise."""
    safety_models: Path | None = None
    """Folder that `danlu corpus train-safety` wrote from labelled examples; the word lists hold without it too."""
    evaluation_sets: tuple[Path, ...] = ()
    """Folders of the benchmarks' files, as `danlu evaluate --data` reads them, or of others in `.jsonl .json .csv
    .txt`; none: nothing is compared."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Removal of evaluation items."""
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    """Near-duplicate removal."""
    repeated_paragraphs: bool = False
    """Remove paragraphs that stand elsewhere in the corpus, or before in the same document. Not in source code."""
    min_paragraph_characters: int = 40
    """Shorter paragraphs are never removed: they are headings and verses. Our choice."""
    against: Path | None = None
    """Result of an earlier build (its `out`): what it kept is not taken again, nor near-duplicates of it. It needs the
    same `minhash`."""
    validation_share: float = 0.02
    """Share of each language's bytes held out, whole documents chosen by the hash of their content. Our choice: about
    100 kB or more a language in the demo, enough for bits per byte to two decimals."""
    warn_source_loss: float = 0.5
    """Warn when removing near-duplicates takes more than this share of a source's documents. Our choice."""
    part_megabytes: float = 64.0
    """MB of text in one file of the result, about; also what is sorted in memory at once."""
    partitions: int = 0
    """Into how many pieces the input is cut, which are worked on at once and never done again; 0: by size."""
    engine: Literal["embedded", "ray"] = "embedded"
    """Where the plan runs: in this process and its children, or on Ray: a cluster, or a local one started for it."""
    address: str = ""
    """Of a running Ray cluster, such as `ray://head:10001`; empty: a local one."""
    workers: int = 0
    """Partitions worked on at once; 0: one a processor core (of the cluster)."""
    dry_run: bool = False
    """Print what would be read and done, and what it would cost, and end."""
    seed: int = 0
    """Seed of the choice of held-out documents."""

    def __post_init__(self) -> None:
        check_known("language", self.languages, [CODE, *sorted(KNOWN_LANGUAGES)])
        check_known("extractor", (self.extractor,), list(EXTRACTORS))
        for name in ("min_language_confidence", "validation_share", "warn_source_loss"):
            check_share(name, getattr(self, name))
        if self.validation_share >= 1:
            raise ValueError("validation_share is 1, nothing would be left for training")
        check_positive(self, "max_document_megabytes", "part_megabytes", "page_seconds", "page_megabytes")
        for name in ("partitions", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must not be negative")
        if self.address and self.engine != "ray":
            raise ValueError("address is that of a Ray cluster: it needs `--engine ray`")
