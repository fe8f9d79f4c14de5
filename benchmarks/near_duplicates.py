"""Near-duplicates: speed beside datatrove, recall of planted pairs, agreement with brute force, memory of clustering.

    python benchmarks/near_duplicates.py speed --documents 20000
    python benchmarks/near_duplicates.py recall
    python benchmarks/near_duplicates.py brute-force --documents 20000
    python benchmarks/near_duplicates.py memory --signatures 10000000

`speed`: documents of 2 KB in a JSON-lines file, a tenth of them near-duplicates of others, from the file to the ids
that stay, in English and in Chinese; processor seconds of both sides, each in a process of its own. `recall`: pairs
planted at known similarities in Chinese, English and code, before verification, against 1 - (1 - s^r)^b.
`brute-force`: of all pairs at a similarity of 0.8 or more, how many the candidates hold. `memory`: synthetic bands
clustered.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from side_by_side import peer_python, report

from danlu.corpus.config import MinHashConfig
from danlu.corpus.duplicates.clusters import HALF, LOWER, candidate_pairs, resolve
from danlu.corpus.duplicates.minhash import band_numbers, found_share
from danlu.corpus.tokens import comparable, content_hash, jaccard, shingles

SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
LANGUAGES = {"en": "eng", "zh": "cmn_Hani"}
"""Ours, and what datatrove calls them."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """What is measured."""

    what: tyro.conf.Positional[Literal["speed", "recall", "brute-force", "memory", "side"]]
    """`side` is the program's own process of the speed measurement."""
    documents: int = 20_000
    """Of the speed and brute-force measurements."""
    signatures: int = 10_000_000
    """Of the memory measurement."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Of the speed measurement."""
    peer: bool = True
    """Whether datatrove takes part in it: it needs an hour for 200,000 documents."""
    pairs: int = 2_000
    """Planted at each similarity."""
    environments: Path = Path("cache/peers")
    """Folder of the peers' Python environments."""
    json: Path | None = None
    """File for the results, beside standard output."""
    folder: Path | None = None
    """Set by the program for its own process."""


def vocabulary(language: str) -> list[str]:
    """Words of made-up text: of letters, of Chinese characters (one each), or names of code."""
    rng = np.random.default_rng(0)
    if language == "zh":
        return [chr(0x4E00 + int(code)) for code in rng.choice(6000, 4000, replace=False)]
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = {"".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(6000)}
    return sorted(f"{word}_{word[:2]}(" if language == "code" else word for word in words)


def texts(count: int, language: str, size: int = 2000) -> Iterator[str]:
    """Documents of about `size` bytes; every tenth repeats the one before with one word in a hundred changed."""
    rng = np.random.default_rng(1)
    words = np.array(vocabulary(language))
    length = size // 3 if language == "zh" else size // 7
    separator = "" if language == "zh" else " "
    drawn = words[:0]
    for number in range(count):
        if number % 10 == 9:
            changed = rng.random(len(drawn)) < 0.01
            drawn = np.where(changed, rng.choice(words, len(drawn)), drawn)
        else:
            drawn = rng.choice(words, length)
        yield separator.join(drawn.tolist())


def side(config: NearDuplicates) -> None:
    """Ours, from the file to the ids that stay: the functions that `danlu corpus build` uses, in one process."""
    assert config.folder is not None
    setting = MinHashConfig()
    (path,) = (config.folder / "input").glob("*.jsonl")
    ids, every, bands = [], [], []
    with path.open(encoding="utf-8") as stream:
        batch: list[list[str]] = []
        for line in stream:
            record = json.loads(line)
            ids.append(record["id"])
            every.append(record["text"])
            batch.append(comparable(record["text"]))
            if len(batch) == 1000:
                bands.append(band_numbers([" ".join(words) for words in batch], setting))
                batch = []
        bands.append(band_numbers([" ".join(words) for words in batch], setting))
    hashes = [content_hash(text) for text in every]
    order = sorted(range(len(every)), key=lambda place: (-len(every[place]), hashes[place]))
    numbers = np.concatenate(bands)[order]
    pairs = candidate_pairs(numbers.T, setting.largest_bucket)

    def read(wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for place in wanted.tolist():
            yield place, shingles(comparable(every[order[place]]), setting.ngram)

    sizes = np.array([len(every[place]) for place in order])
    gone = resolve(pairs, sizes, read, setting.threshold, setting.memory_megabytes * 1e6)
    kept = len(every) - len(gone)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps({"cpu_seconds": used.ru_utime + used.ru_stime, "kept": kept, "peak_megabytes": used.ru_maxrss / 1e3})
    )


def speed(config: NearDuplicates) -> dict[str, Any]:
    """Documents a processor second on both sides, and their ratio."""
    here = Path(__file__).parent
    found: dict[str, Any] = {"documents": config.documents}
    for language in config.languages:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "input").mkdir()
            with (folder / "input" / "documents.jsonl").open("w", encoding="utf-8") as stream:
                for number, text in enumerate(texts(config.documents, language)):
                    stream.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
            ours = answer([sys.executable, __file__, "side", "--folder", name])
            found[language] = {"danlu": ours, "danlu_documents_per_cpu_second": config.documents / ours["cpu_seconds"]}
            if config.peer:
                peer = peer_python(here / "corpus-peer-requirements.txt", config.environments)
                program = [str(peer), str(here / "near_duplicates_datatrove.py")]
                other = answer([*program, name, LANGUAGES[language]])
                total = sum(other["cpu_seconds"].values())
                found[language] |= {
                    "datatrove": other, "datatrove_documents_per_cpu_second": config.documents / total,
                    "ratio": total / ours["cpu_seconds"],
                }  # fmt: skip
    return found


def answer(command: list[str]) -> dict[str, Any]:
    """The JSON on the last line that a process prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}")
    value: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return value


def recall(config: NearDuplicates) -> dict[str, Any]:
    """Share of planted pairs that become candidates, and what the bands promise for their true similarities."""
    setting = MinHashConfig()
    found: dict[str, Any] = {"pairs": config.pairs}
    for language in ("zh", "en", "code"):
        rng = np.random.default_rng(7)
        words = np.array(vocabulary(language))
        rows = []
        for similarity in SIMILARITIES:
            firsts, seconds, true = [], [], []
            for _ in range(config.pairs):
                a, b = planted(words, similarity, rng)
                separator = "" if language == "zh" else " "
                first, second = (comparable(separator.join(part.tolist())) for part in (a, b))
                true.append(jaccard(shingles(first, setting.ngram), shingles(second, setting.ngram)))
                firsts.append(" ".join(first))
                seconds.append(" ".join(second))
            shared = band_numbers(firsts, setting) == band_numbers(seconds, setting)
            rows.append({
                "similarity": similarity, "true_mean": float(np.mean(true)), "found": float(shared.any(axis=1).mean()),
                "promised": float(np.mean([found_share(value, setting) for value in true])),
            })  # fmt: skip
        found[language] = rows
        found[f"{language}_largest_difference"] = max(abs(row["found"] - row["promised"]) for row in rows)
    return found


def planted(words: np.ndarray, similarity: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two texts whose 5-grams have about this similarity: they share a beginning and go on differently."""
    length = 300
    shared = round(length * 2 * similarity / (1 + similarity))
    beginning = rng.choice(words, shared)
    return tuple(np.concatenate([beginning, rng.choice(words, length - shared)]) for _ in range(2))  # type: ignore[return-value]


def brute_force(config: NearDuplicates) -> dict[str, Any]:
    """Of all pairs of real shingle sets at the threshold or above, how many the candidates hold. Pairs are found by an
    inverted index of every shingle, which misses none."""
    setting = MinHashConfig()
    rng = np.random.default_rng(3)
    words = np.array(vocabulary("en"))
    documents: list[list[str]] = []
    while len(documents) < config.documents:
        for part in planted(words, float(rng.uniform(0.5, 0.98)), rng):
            documents.append(comparable(" ".join(part.tolist())))
    sets = [shingles(text, setting.ngram) for text in documents]
    holders: dict[int, list[int]] = {}
    for number, members in enumerate(sets):
        for shingle in members.tolist():
            holders.setdefault(shingle, []).append(number)
    touching = {pair for found in holders.values() if len(found) > 1 for pair in combinations(found, 2)}
    true = {pair for pair in touching if jaccard(sets[pair[0]], sets[pair[1]]) >= setting.threshold}
    bands = band_numbers([" ".join(text) for text in documents], setting)
    pairs = candidate_pairs(bands.T, setting.largest_bucket)
    candidates = set(zip((pairs >> HALF).tolist(), (pairs & LOWER).tolist(), strict=True))
    return {"documents": len(documents), "pairs": len(true), "found": len(true & candidates) / len(true)}


def memory(config: NearDuplicates) -> dict[str, Any]:
    """Seconds and memory of turning bands into candidate pairs, one band at a time: a fifth of the signatures in
    clusters of two to five that share about half of their bands, the others alone."""
    setting = MinHashConfig()
    count = config.signatures
    clustered = count // 5

    def bands() -> Iterator[np.ndarray]:
        for number in range(setting.bands):
            rng = np.random.default_rng(number)
            values = rng.integers(0, 1 << 63, count, dtype=np.uint64)
            cluster = np.arange(clustered, dtype=np.uint64) // np.uint64(3) * np.uint64(setting.bands) + np.uint64(
                number
            )
            shares = rng.random(clustered) < 0.5
            values[:clustered] = np.where(shares, cluster | np.uint64(1 << 63), values[:clustered])
            yield values

    before = resource.getrusage(resource.RUSAGE_SELF)
    pairs = candidate_pairs(bands(), setting.largest_bucket)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "signatures": count, "pairs": len(pairs), "cpu_seconds": after.ru_utime - before.ru_utime,
        "peak_megabytes": after.ru_maxrss / 1e3,
    }  # fmt: skip


def main(config: NearDuplicates) -> None:
    if config.what == "side":
        side(config)
        return
    work = {"speed": speed, "recall": recall, "brute-force": brute_force, "memory": memory}[config.what]
    report(work(config), config.json)


if __name__ == "__main__":
    main(tyro.cli(NearDuplicates))
