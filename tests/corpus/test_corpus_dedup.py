"""Duplicates: exact after normalisation, near by verified similarity (known faults D07, D09)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.corpus import near_duplicates
from danlu.corpus.config import MinHashConfig
from danlu.corpus.dedup import candidate_pairs, content_hash, exact_key, jaccard, keepers, shingles, similar_pairs


def similarity(a: str, b: str) -> float:
    return jaccard(shingles(a, 5), shingles(b, 5))


def test_short_texts_are_not_taken_for_each_other() -> None:
    texts = ["cat", "dog", "cat", "", "你好", "你好吗", "six words stand in this sentence"]
    clusters, kept = near_duplicates(texts)
    assert clusters[0] == clusters[2], "equal short texts are duplicates"
    assert len(kept) == 6, "only one `cat` goes; the empty text is nobody's duplicate"


@pytest.mark.parametrize("ngram", [5, 13])
def test_texts_shorter_than_an_ngram_have_one_shingle_of_their_own(ngram: int) -> None:
    assert len(shingles("cat", ngram)) == len(shingles("你好", ngram)) == 1
    assert len({shingles(text, ngram)[0] for text in ("cat", "dog", "你好", "你好吗")}) == 4
    assert len(shingles("", ngram)) == 0
    texts = {content_hash(text): text for text in ("cat", "dog", "你好", "你好吗")}
    assert similar_pairs(texts, MinHashConfig(ngram=ngram)) == {}


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
    bucket = [f"{i:05}" for i in range(3000)]
    assert len(candidate_pairs([bucket], largest_bucket=10)) < 10 * 3000


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda p: p[0] < p[1]), max_size=30))
def test_every_removed_document_is_paired_with_a_kept_one(edges: set[tuple[int, int]]) -> None:
    pairs = {(f"{a:02}", f"{b:02}") for a, b in edges}
    kept = keepers(pairs)
    assert set(kept) == {name for pair in pairs for name in pair}
    for name, keeper in kept.items():
        assert kept[keeper] == keeper
        assert name == keeper or (min(name, keeper), max(name, keeper)) in pairs
    for a, b in pairs:
        assert not (kept[a] == a and kept[b] == b), "two similar documents were both kept"
    assert keepers(sorted(pairs, reverse=True)) == kept
