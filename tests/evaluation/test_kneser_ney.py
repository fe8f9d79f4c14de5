"""The Kneser-Ney line meets its golden file, its distributions sum to 1, and it is quick enough."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from danlu.evaluation.kneser_ney import ByteKneserNey, byte_ngram_bits_per_byte

GOLDEN = Path(__file__).parents[3] / "shared/golden/kn5/kn5.json"


@pytest.fixture(scope="module")
def golden() -> dict:
    if not GOLDEN.exists():
        pytest.skip("the golden file kn5.json lies in ../shared, which is absent here")
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def documents(golden: dict, name: str) -> list[bytes]:
    return [text.encode() for text in golden[name]]


def test_every_order_meets_the_golden_bits_per_byte(golden: dict) -> None:
    measured = byte_ngram_bits_per_byte(documents(golden, "train"), documents(golden, "held_out"))
    expected = [golden["bits_per_byte"][str(order)] for order in range(1, 6)]
    assert measured == pytest.approx(expected, abs=1e-9)


def test_every_discount_meets_the_golden_one(golden: dict) -> None:
    model = ByteKneserNey(documents(golden, "train"))
    expected = [golden["discount"][str(order)] for order in range(1, 6)]
    assert model.discounts == pytest.approx(expected, abs=1e-12)


def reference_probability(documents: list[bytes], order: int, context: bytes, target: int) -> float:
    """The definition written out with dictionaries, to be read beside the docstring of the module."""
    stream = b"".join(b"\0" * (order - 1) + document for document in documents)
    counts: dict[bytes, int] = {}
    for end in range(order, len(stream) + 1):
        ngram = stream[end - order : end]
        counts[ngram] = counts.get(ngram, 0) + 1
    levels = [counts]
    for _ in range(order - 1):
        shorter: dict[bytes, int] = {}
        for ngram in levels[0]:
            shorter[ngram[1:]] = shorter.get(ngram[1:], 0) + 1
        levels.insert(0, shorter)
    probability = 1 / 256
    for length, level in enumerate(levels, start=1):
        history = context[len(context) - length + 1 :]
        after = {ngram[-1]: count for ngram, count in level.items() if ngram[:-1] == history}
        if not after:
            continue
        ones, twos = (sum(1 for count in level.values() if count == n) for n in (1, 2))
        discount = ones / (ones + 2 * twos) if ones else 0.5
        total = sum(after.values())
        kept = max(after.get(target, 0) - discount, 0) if target in after else 0
        probability = (kept + discount * len(after) * probability) / total
    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 5, 7])
def test_probabilities_equal_the_definition_written_out(order: int) -> None:
    train = [b"the cat sat on the mat", "炉火正旺，炉火正红".encode(), b"the hat"]
    model = ByteKneserNey(train, order)
    for context in (b"", b"the ", "炉".encode(), b"zzzzzzzz"):
        padded = b"\0" * order + context
        values = model.distribution(context)
        for target in (ord("t"), ord("e"), 0xE7, 0, 255):
            expected = reference_probability(train, order, padded, target)
            assert values[target] == pytest.approx(expected, rel=1e-12), (order, context, target)


@pytest.mark.parametrize("order", [1, 3, 5, 8])
def test_distributions_sum_to_one(order: int) -> None:
    source = random.Random(5)
    train = [bytes(source.choices(b"abcd \xe7\x82\x89\x00", k=source.randint(0, 60))) for _ in range(50)]
    model = ByteKneserNey(train, order)
    for _ in range(200):
        context = bytes(source.choices(b"abcd \xe7\x82\x89\xff", k=source.randint(0, 10)))
        values = model.distribution(context)
        assert values.sum() == pytest.approx(1, abs=1e-12), context
        assert values.min() > 0, context


def test_context_never_crosses_documents() -> None:
    train = [b"abcabc", b"xyzxyz", b"abx"]
    together = byte_ngram_bits_per_byte(train, [b"abc", b"xyz"])
    apart = [byte_ngram_bits_per_byte(train, [document]) for document in (b"abc", b"xyz")]
    assert together == pytest.approx(list(np.mean(apart, axis=0)))


def test_nul_bytes_of_the_held_out_text_are_not_scored() -> None:
    train = [b"abab" * 20]
    # A NUL costs nothing itself; what follows it stands at a document's start again.
    apart, alone = ([b"ab\0\0\0\0ab"], [b"ab"])
    assert byte_ngram_bits_per_byte(train, apart) == pytest.approx(byte_ngram_bits_per_byte(train, alone))


@pytest.mark.parametrize(("train", "held_out"), [([], [b"a"]), ([b""], [b"a"]), ([b"a"], []), ([b"a"], [b"\0"])])
def test_no_bytes_is_an_error(train: list[bytes], held_out: list[bytes]) -> None:
    with pytest.raises(ValueError, match="no bytes"):
        byte_ngram_bits_per_byte(train, held_out)


def test_an_order_beyond_eight_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 8"):
        ByteKneserNey([b"a"], order=9)


@pytest.mark.slow
def test_seventeen_megabytes_take_less_than_thirty_seconds() -> None:
    source = np.random.default_rng(1)
    words = [bytes(source.integers(97, 123, size=6, dtype=np.uint8)) for _ in range(20000)]
    train = [b" ".join(words[i] for i in source.zipf(1.3, 500) % 20000) for _ in range(5000)]
    started = time.monotonic()
    byte_ngram_bits_per_byte(train, train[:100])
    assert time.monotonic() - started < 30
