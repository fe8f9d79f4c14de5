"""Train the models that score documents: `danlu corpus train-lm`, `train-quality`, `train-safety`.

In: reference text, good and bad text, or labelled examples, in the formats that the corpus is built from. Out: a folder
with a model for each language and `figures.json` with what it does on documents that it was not trained on.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.charset import UndecodableError, decode_html, decode_text
from danlu.corpus.config import CorpusConfig
from danlu.corpus.extract import extract, left_out, tidy
from danlu.corpus.inputs import PAGE, files_below
from danlu.corpus.language import identify
from danlu.corpus.records import Record, read_records
from danlu.corpus.score import GOOD
from danlu.corpus.scores.classifier import TABLE_ROWS, Classifier, features, save_classifier
from danlu.corpus.scores.perplexity import RARE, model_file, normalised, perplexity
from danlu.corpus.scores.safety import CLASSES
from danlu.corpus.tokens import content_hash, tokens
from danlu.corpus.train_config import ClassifierTraining, TrainLmConfig, TrainQualityConfig, TrainSafetyConfig
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar

FEWEST_PIECES = 20
"""Pieces of a class with which a classifier is worth training. Our choice."""
FEWEST_TOKENS = 1000
"""Tokens with which a language model is. Our choice: Kneser-Ney's discounts need n-grams that occur once and twice."""


def texts_of(folder: Path, sources: tuple[str, ...], *, leftovers: bool = False) -> Iterator[str]:
    """The texts below a folder of raw files or documents; of a page its main text, or with `leftovers` the rest.
    Raises UserError for a folder without files, or without one of the sources."""
    if not folder.is_dir():
        raise UserError("no such folder of text", where=folder)
    files, _ = files_below(folder)
    known = sorted({file.source for file in files})
    for name in sources:
        if name not in known:
            raise UserError(
                f"no source `{name}` here", where=folder, mend=f"Here are: {', '.join(known) or 'no files'}"
            )
    chosen = [file for file in files if not sources or file.source in sources]
    if not chosen:
        raise UserError("no file here that can be read", where=folder)
    limit = int(CorpusConfig().max_document_megabytes * 1e6)
    with ProgressBar("read", total=len(chosen), unit="files") as bar:
        for file in chosen:
            for record in read_records(file, limit):
                text = text_of(record, leftovers)
                if text.strip():
                    yield text
            bar.advance(1)


def text_of(record: Record, leftovers: bool) -> str:
    """A record's text; "" where it has none."""
    if record.problem:
        return ""
    try:
        if record.kind == PAGE:
            page = decode_html(record.body, record.content_type)[0]
            return left_out(page) if leftovers else extract(page, "balanced")
        return tidy(decode_text(record.body)[0])
    except UndecodableError:
        return ""


def is_held_out(text: str, share: float) -> bool:
    """Whether a document only measures; by its content alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:4], "big") < share * (1 << 32)


def train_lm(config: TrainLmConfig) -> Path:
    """Train a language model for each language; the folder `out/models`. Raises UserError where there is too little
    text of one."""
    samples = {language: Sample(config.max_tokens) for language in config.languages}
    held: dict[str, list[list[str]]] = defaultdict(list)
    for text in texts_of(config.input, config.sources):
        language = identify(text)[0]
        if language in samples and is_held_out(text, config.held_out_share):
            held[language].append(tokens(text))
        elif language in samples:
            samples[language].add(text)
    lines = {language: sample.lines() for language, sample in samples.items()}
    counts = Counter({language: sum(map(len, found)) for language, found in lines.items()})
    enough(counts, config.languages, FEWEST_TOKENS, "tokens", config.input)
    figures: dict[str, Any] = {}
    with publish(config.out / "models") as folder, ProgressBar("train", total=len(counts), unit="languages") as bar:
        folder.mkdir(parents=True)
        for language in config.languages:
            train_ngrams(lines[language], config.order, model_file(folder, language))
            values = [v for words in held[language] if (v := perplexity(folder, language, words)) is not None]
            middle = round(float(np.median(values)), 2) if values else None
            figures[language] = {"tokens": counts[language], "held_out": len(values), "median_perplexity": middle}
            bar.advance(1, last=language)
    write_json(config.out / "figures.json", {"order": config.order, "languages": figures})
    return config.out / "models"


class Sample:
    """Documents up to so many tokens, those whose hashes are smallest: a fair part of each source, in no order's
    favour, and never more than twice as much in memory."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.documents: list[tuple[str, list[list[str]], int]] = []
        self.held = 0
        self.cut = "~"
        """Hash from which on nothing fits: above every hexadecimal digit until something did not."""

    def add(self, text: str) -> None:
        identity = content_hash(text)
        if identity >= self.cut:
            return
        lines = [words for line in text.splitlines() if (words := normalised(tokens(line)))]
        size = sum(map(len, lines))
        self.documents.append((identity, lines, size))
        self.held += size
        if self.held > 2 * self.max_tokens:
            self.trim()

    def trim(self) -> None:
        """Keep the documents of smallest hash that fit."""
        self.documents.sort(key=lambda document: document[0])
        kept = 0
        for place, (_, _, size) in enumerate(self.documents):
            if kept and kept + size > self.max_tokens:
                self.cut = self.documents[place][0]
                del self.documents[place:]
                break
            kept += size
        self.held = kept

    def lines(self) -> list[list[str]]:
        """The lines of the documents that fit, as tokens."""
        self.trim()
        return [line for _, lines, _ in self.documents for line in lines]


def enough(counts: Counter[str], languages: Sequence[str], fewest: int, unit: str, where: Path) -> None:
    """Raise UserError for a language with too little to train on."""
    for language in languages:
        if counts[language] < fewest:
            raise UserError(
                f"{counts[language]} {unit} of `{language}`, too few to train on (at least {fewest})", where=where,
                mend="Give more text, or leave the language out with --languages",
            )  # fmt: skip


def train_ngrams(lines: list[list[str]], order: int, path: Path) -> None:
    """Write the ARPA file of a Kneser-Ney model: by KenLM's `lmplz` where it is installed, else by kaldingram.

    kaldingram knows nothing of unknown words: those that occur once stand for them. `lmplz` has its own share for them.
    """
    has_lmplz = shutil.which("lmplz") is not None
    counts = Counter(word for line in lines for word in line)
    text = path.with_suffix(".txt")
    with text.open("w", encoding="utf-8") as stream:
        for line in lines:
            stream.write(" ".join(word if has_lmplz or counts[word] > 1 else RARE for word in line) + "\n")
    if has_lmplz:
        command = ["lmplz", "--order", str(order), "--discount_fallback", "--text", str(text), "--arpa", str(path)]
    else:
        command = [sys.executable, "-m", "kaldingram.cli", "train", "--ngram-order", str(order)]
        command += ["--text", str(text), "--lm", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    text.unlink()
    if done.returncode or not path.exists():
        said = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise UserError(f"the language model could not be trained: {said}", where=command[0])


def train_quality(config: TrainQualityConfig) -> Path:
    """Train a classifier of good against bad text for each language; the folder `out/models`."""
    labelled = [
        (text, [float(label)])
        for label, folder, sources in ((1, config.good, config.good_sources), (0, config.bad, config.bad_sources))
        for text in texts_of(folder, sources, leftovers=not label)
    ]
    return train_classifiers(labelled, (GOOD,), config, config.out, f"{config.good}, {config.bad}")


def train_safety(config: TrainSafetyConfig) -> Path:
    """Train a classifier of offensive text for each language; the folder `out/models`. Raises UserError for examples
    that are none."""
    labelled = []
    if not config.examples.is_file():
        raise UserError("no such file of examples", where=config.examples, mend="JSON lines with `text` and `labels`")
    for number, line in enumerate(config.examples.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
            text, labels = str(example["text"]), set(example["labels"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("no object with `text` and `labels`", where=f"{config.examples}:{number}") from error
        if labels - set(CLASSES):
            wrong = ", ".join(sorted(labels - set(CLASSES)))
            raise UserError(f"unknown label {wrong}", where=f"{config.examples}:{number}", mend=f"Known: {CLASSES}")
        labelled.append((text, [float(name in labels) for name in CLASSES]))
    return train_classifiers(labelled, CLASSES, config, config.out, str(config.examples))


def train_classifiers(
    labelled: list[tuple[str, list[float]]], classes: tuple[str, ...], config: ClassifierTraining, out: Path, where: str
) -> Path:
    """Train one classifier a language from texts with a 0 or 1 for each class, and measure it on whole documents that
    it has not seen."""
    train: dict[str, list[tuple[list[str], list[float]]]] = defaultdict(list)
    test: dict[str, list[tuple[list[str], list[float]]]] = defaultdict(list)
    for text, labels in labelled:
        language = identify(text)[0]
        words = tokens(text)
        if is_held_out(text, config.held_out_share):
            test[language].append((words, labels))
        else:
            pieces = [words[i : i + config.piece_tokens] for i in range(0, len(words), config.piece_tokens)]
            train[language] += [(piece, labels) for piece in pieces]
    figures: dict[str, Any] = {}
    with publish(out / "models") as folder, ProgressBar("train", total=len(config.languages), unit="languages") as bar:
        folder.mkdir(parents=True)
        for language in config.languages:
            chosen = balanced(train[language], config)
            check_classes(chosen, classes, language, where)
            classifier = fit(chosen, classes, config)
            save_classifier(folder, language, classifier, {"pieces": len(chosen), "of": where})
            figures[language] = {"pieces": len(chosen), **measure(classifier, test[language])}
            bar.advance(1, last=language)
    write_json(out / "figures.json", {"classes": classes, "languages": figures})
    return out / "models"


Examples = list[tuple[list[str], list[float]]]


def balanced(pieces: Examples, config: ClassifierTraining) -> Examples:
    """At most `max_pieces` of each combination of classes, chosen by the seed."""
    rng = np.random.default_rng(config.seed)
    groups: dict[tuple[float, ...], Examples] = defaultdict(list)
    for index in rng.permutation(len(pieces)).tolist():
        group = groups[tuple(pieces[index][1])]
        if len(group) < config.max_pieces:
            group.append(pieces[index])
    return [piece for key in sorted(groups) for piece in groups[key]]


def check_classes(pieces: Examples, classes: tuple[str, ...], language: str, where: str) -> None:
    """Raise UserError where a class, or its opposite, has too few pieces."""
    for column, name in enumerate(classes):
        for value, what in ((1.0, name), (0.0, f"not {name}")):
            count = sum(labels[column] == value for _, labels in pieces)
            if count < FEWEST_PIECES:
                raise UserError(
                    f"{count} pieces of `{language}` that are {what}, too few to train on (at least {FEWEST_PIECES})",
                    where=where, mend="Give more text, or leave the language out with --languages",
                )  # fmt: skip


def fit(pieces: Examples, classes: tuple[str, ...], config: ClassifierTraining) -> Classifier:
    """Logistic regression over hashed n-grams by Adam; classes weigh the same however many pieces they have."""
    import torch

    rows = [torch.from_numpy(features(words)) for words, _ in pieces]
    labels = torch.tensor([labels for _, labels in pieces])
    share = labels.mean(dim=0).clamp(1e-3, 1 - 1e-3)
    weight = labels / (2 * share) + (1 - labels) / (2 * (1 - share))
    table = torch.nn.EmbeddingBag(TABLE_ROWS, len(classes), mode="mean", include_last_offset=True)
    torch.nn.init.zeros_(table.weight)
    bias = torch.nn.Parameter(torch.zeros(len(classes)))
    optimizer = torch.optim.Adam([table.weight, bias], lr=config.learning_rate)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        for chosen in torch.randperm(len(rows), generator=generator).split(256):
            bags = [rows[index] for index in chosen.tolist()]
            offsets = torch.tensor([0, *np.cumsum([len(bag) for bag in bags])])
            logits = table(torch.cat(bags), offsets) + bias
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen], weight=weight[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Classifier(classes, table.weight.detach().numpy(), bias.detach().numpy())


def measure(classifier: Classifier, examples: Examples) -> dict[str, Any]:
    """Area under the curve of each class on held-out documents; None where they are all alike."""
    found: dict[str, Any] = {"held_out": len(examples)}
    scores = [classifier.scores(words) for words, _ in examples]
    for column, name in enumerate(classifier.classes):
        labels = [labels[column] for _, labels in examples]
        area = area_under_curve([score[name] for score in scores], labels)
        found[f"auc_{name}"] = None if area is None else round(area, 4)
    return found


def area_under_curve(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Probability that a positive scores above a negative, ties counting a half (Mann-Whitney); None for one class."""
    values, is_positive = np.asarray(scores, dtype=float), np.asarray(labels) > 0.5
    positive, negative = int(is_positive.sum()), int((~is_positive).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[is_positive].sum() - positive * (positive + 1) / 2) / (positive * negative))
