"""Duplicates: exact after normalisation, near by verified similarity (known faults D07, D09)."""

import random
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.corpus import near_duplicates
from danlu.corpus.config import MinHashConfig
from danlu.corpus.duplicates.clusters import HALF, LOWER, candidate_pairs, largest_component, resolve
from danlu.corpus.duplicates.minhash import band_numbers, found_share
from danlu.corpus.duplicates.near import exact_number, similar
from danlu.corpus.duplicates.paragraphs import paragraph_numbers, repeated, without
from danlu.corpus.tokens import comparable, content_hash, jaccard, shingles


def similarity(a: str, b: str) -> float:
    return jaccard(shingles(comparable(a), 5), shingles(comparable(b), 5))


def exact_key(text: str, language: str) -> int:
    return exact_number(text, comparable(text), language)


def test_short_texts_are_not_taken_for_each_other() -> None:
    texts = ["cat", "dog", "cat", "", "你好", "你好吗", "six words stand in this sentence"]
    clusters, kept = near_duplicates(texts)
    assert clusters[0] == clusters[2], "equal short texts are duplicates"
    assert len(kept) == 6, "only one `cat` goes; the empty text is nobody's duplicate"


@pytest.mark.parametrize("ngram", [5, 13])
def test_texts_shorter_than_an_ngram_have_one_shingle_of_their_own(ngram: int) -> None:
    words = [comparable(text) for text in ("cat", "dog", "你好", "你好吗")]
    assert [len(shingles(text, ngram)) for text in words] == [1] * 4
    assert len({shingles(text, ngram)[0] for text in words}) == 4
    assert len(shingles([], ngram)) == 0
    assert similar(words, MinHashConfig(ngram=ngram)) == {}


def test_a_shared_opening_does_not_make_documents_alike() -> None:
    opening = " ".join(f"opening{i}" for i in range(60))
    texts = [opening + " " + " ".join(f"own{n}word{i}" for i in range(200)) for n in range(50)]
    assert len(near_duplicates(texts)[1]) == 50


def test_a_chain_is_cut_where_its_ends_differ() -> None:
    words = [f"word{i}" for i in range(500)]
    texts = [" ".join(words[20 * n : 20 * n + 200]) for n in range(12)]
    clusters, kept = near_duplicates(texts)
    assert 1 < len(kept) < 12
    for index, cluster in enumerate(clusters):
        assert similarity(texts[index], texts[kept[cluster]]) >= 0.8, "a text went for one it is not similar to"
    assert clusters[0] != clusters[-1]


def varied(base: str, rng: random.Random) -> str:
    words = base.split()
    words[rng.randrange(len(words))] = f"changed{rng.randrange(1000)}"
    return " ".join(words)


def test_the_kept_texts_do_not_depend_on_the_order() -> None:
    rng = random.Random(0)
    bases = [" ".join(f"w{rng.randrange(5000)}" for _ in range(120)) for _ in range(8)]
    texts = [varied(base, rng) for base in bases for _ in range(5)] + bases
    expected = {texts[i] for i in near_duplicates(texts)[1]}
    assert len(expected) == 8, "every group has one kept text"
    for _ in range(3):
        rng.shuffle(texts)
        assert {texts[i] for i in near_duplicates(texts)[1]} == expected


def test_ties_go_to_the_smallest_content_hash() -> None:
    words = " ".join(f"word{i}" for i in range(100))
    texts = [words, words.upper(), words.replace(" ", "  "), words + "!"]
    clusters, kept = near_duplicates(texts)
    assert clusters == [0, 0, 0, 0]
    assert texts[kept[0]] == min(texts, key=content_hash)


def test_chinese_is_compared_by_characters() -> None:
    base = "春江潮水连海平海上明月共潮生滟滟随波千万里何处春江无月明江流宛转绕芳甸月照花林皆似霰" * 2
    clusters, _ = near_duplicates([base, base[:-1] + "雪", "完全不同的一段文字，说的是炼丹炉里的火候与药材。"])
    assert clusters == [0, 0, 1]


def test_exact_keys_ignore_case_width_white_space_and_punctuation() -> None:
    assert exact_key("Hello,  World!", "en") == exact_key("ｈｅｌｌｏ world", "en")
    assert exact_key("你好，世界。", "zh") == exact_key("你好 世界", "zh")
    assert exact_key("a b", "en") != exact_key("ab", "en")
    assert exact_key("x = a + b", "code") != exact_key("x = a - b", "code"), "in code, signs count"
    assert exact_key("!!!", "en") != exact_key("???", "en")


def test_a_large_bucket_is_not_compared_quadratically() -> None:
    bucket = np.zeros(3000, dtype=np.uint64)
    assert len(candidate_pairs([bucket], largest_bucket=10)) == sum(2999 - n for n in range(10))
    assert len(candidate_pairs([bucket[:5]], largest_bucket=10)) == 10


def pairs_of(edges: set[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted((a << 32) + b for a, b in edges), dtype=np.uint64)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.frozensets(st.integers(0, 12), min_size=1, max_size=6), min_size=2, max_size=14),
    st.sampled_from([1.0, 40.0, 1e9]),
)
def test_the_greedy_choice_is_the_same_whatever_fits_into_memory(sets: list[frozenset[int]], budget: float) -> None:
    """Every document in turn stays unless one before it that stays is similar; a budget only changes how often texts
    are read."""
    arrays = [np.array(sorted(members), dtype=np.uint64) for members in sets]
    edges = {(a, b) for a in range(len(sets)) for b in range(a + 1, len(sets))}

    def read(wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        assert wanted.tolist() == sorted(wanted.tolist())
        yield from reversed([(n, arrays[n]) for n in wanted.tolist()])

    sizes = np.array([8 * len(members) for members in sets])
    gone = resolve(pairs_of(edges), sizes, read, 0.5, budget)
    expected: dict[int, int] = {}
    for b in range(len(sets)):
        for a in range(b):
            if a not in expected and jaccard(arrays[a], arrays[b]) >= 0.5:
                expected[b] = a
                break
    assert {number: keeper for number, (keeper, _) in gone.items()} == expected


def test_candidates_are_found_as_often_as_the_bands_promise() -> None:
    """2,000 pairs at a similarity of 0.7, where the curve is steepest."""
    rng = np.random.default_rng(3)
    texts, pairs = [], 1000
    for _ in range(pairs):
        shared = rng.integers(0, 1 << 30, 85)
        own = rng.integers(0, 1 << 30, (2, 18))
        texts += [" ".join(f"{word:x}" for word in np.concatenate([shared, mine])) for mine in own]
    config = MinHashConfig(ngram=1)
    bands = band_numbers(texts, config)
    found = np.mean((bands[::2] == bands[1::2]).any(axis=1))
    expected = found_share(85 / 121, config)
    assert abs(found - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_the_largest_chain_is_told() -> None:
    chain = {(n, n + 1) for n in range(20)} | {(30, 31)}
    assert largest_component(pairs_of(chain)) == 21
    assert largest_component(pairs_of(set())) == 0
    pairs = pairs_of({(3, 9)})
    assert (int(pairs[0] >> HALF), int(pairs[0] & LOWER)) == (3, 9)


def test_each_paragraph_is_left_once_in_any_order() -> None:
    p = {n: f"Paragraph number {n} is long enough to be counted as one." for n in range(1, 7)}
    documents = ["\n".join(p[n] for n in numbers) for numbers in ((1, 2, 3), (2, 4), (5, 5, 6))]
    for order in permutations(documents):
        numbers = [(at, np.array(paragraph_numbers(text, 20), dtype=np.uint64)) for at, text in enumerate(order)]
        gone: dict[int, list[int]] = {}
        for at, place in repeated(numbers, 7):
            gone.setdefault(at, []).append(place)
        left = "\n".join(without(text, gone.get(at, [])) for at, text in enumerate(order))
        assert sorted(left.split("\n")) == sorted(p.values())


def test_short_lines_are_never_taken_for_repeated_paragraphs() -> None:
    assert paragraph_numbers("Heading\n\nHeading", 20) == [0, 0, 0]
    assert len(set(paragraph_numbers("The same, long paragraph\nthe SAME long paragraph!", 10))) == 1
