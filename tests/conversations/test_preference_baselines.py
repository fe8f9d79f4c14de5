"""The baselines learn what replies alone give away, say so for each pair, and read nothing of the prompt."""

import time
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from danlu.conversations.comparisons import Comparison
from danlu.conversations.preference_baselines import (
    WEIGHT_DECAY,
    bag_of_words_baseline,
    length_baseline,
    length_bias,
    tokens,
)
from danlu.conversations.records import Message


def pairs(*sides: tuple[str, str], source: str | None = None, prompt: str = "q") -> list[Comparison]:
    return [Comparison((Message("user", prompt),), chosen, rejected, source) for chosen, rejected in sides]


def test_length_bias_is_told_for_each_source_and_for_all() -> None:
    found = length_bias([
        *pairs(("aaaa", "a"), ("a", "b"), source="cut"), *pairs(("好", "你好"), ("ab", "好好"), source="equal"),
        *pairs(("a", "bc")),
    ])  # fmt: skip
    assert list(found) == ["all", "cut", "equal", "unnamed"]
    assert found["cut"] == {
        "pairs": 2, "longer": 0.5, "equal": 0.5, "shorter": 0.0, "chosen": 2.5, "rejected": 1.0,
    }  # fmt: skip
    assert found["equal"]["shorter"] == 0.5
    assert found["all"] == {
        "pairs": 5, "longer": 0.2, "equal": 0.4, "shorter": 0.4, "chosen": 1.8, "rejected": 1.6,
    }  # fmt: skip
    assert length_bias([]) == {}


@pytest.mark.parametrize(
    ("train", "right"),
    [([("long", "s"), ("long", "s"), ("s", "long")], [1, 0, 0.5]), ([("s", "long"), ("a", "b")], [0, 1, 0.5])],
    ids=["longer", "shorter"],
)
def test_the_length_baseline_learns_which_length_wins(train: list[tuple[str, str]], right: list[float]) -> None:
    test = pairs(("aaa", "b"), ("a", "bbb"), ("你", "b"))
    assert length_baseline(pairs(*train))(test).tolist() == right


def test_tokens_are_words_digits_marks_and_characters_with_their_pairs() -> None:
    assert list(tokens("It's 42, Naïve_one!")) == ["it", "'", "s", "4", "2", ",", "naïve", "_", "one", "!"]
    assert list(tokens("猫叫花。")) == ["猫", "叫", "花", "猫叫", "叫花", "。"]
    assert list(tokens("用kill")) == ["用", "kill"]


def test_the_bag_of_words_learns_words_characters_and_pairs_of_characters() -> None:
    train = pairs(*[("yes please", "no please"), ("你好", "好你"), ("红", "绿")] * 20)
    test = pairs(("Yes sir", "no sir"), ("no", "yes"), ("你好吗", "好你吗"), ("绿色", "红色"))
    assert bag_of_words_baseline(train)(test).tolist() == [1, 0, 1, 0]


def test_a_tie_counts_half() -> None:
    train = pairs(*[("yes", "no")] * 5)
    # The same words in another order, and words that training has not seen.
    test = pairs(("yes no", "no yes"), ("quite unknown", "other words"))
    assert bag_of_words_baseline(train)(test).tolist() == [0.5, 0.5]


def test_the_prompt_is_not_read() -> None:
    train = [*pairs(*[("yes", "no")] * 5, prompt="a"), *pairs(*[("no", "yes")] * 3, prompt="b")]
    test = [*pairs(("yes", "no"), prompt="a"), *pairs(("yes", "no"), prompt="b")]
    assert bag_of_words_baseline(train)(test).tolist() == [1, 1]


WORDS = ("red", "green", "blue", "cat", "dog", "sun", "moon", "sea")


def random_pairs(seed: int, count: int, words: Sequence[str] = WORDS) -> list[Comparison]:
    """Replies of a few words; those with words from the front of the list are mostly preferred."""
    source = Random(seed)

    def merit(reply: str) -> float:
        return -sum(words.index(word) for word in reply.split()) / len(words) + source.gauss(0, 1)

    drawn = [[" ".join(source.choices(words, k=source.randint(1, 4))) for _ in range(2)] for _ in range(count)]
    return pairs(*[(a, b) if merit(a) >= merit(b) else (b, a) for a, b in drawn if a != b])


def test_the_fit_agrees_with_plain_gradient_descent_on_a_dense_matrix() -> None:
    train, test = random_pairs(1, 300), random_pairs(2, 200)

    def dense(items: list[Comparison]) -> np.ndarray:
        return np.array(
            [[pair.chosen.split().count(w) - pair.rejected.split().count(w) for w in WORDS] for pair in items], float
        )

    matrix, weights = dense(train), np.zeros(len(WORDS))
    for _ in range(20_000):
        gradient = WEIGHT_DECAY * weights - matrix.T @ (1 / (1 + np.exp(matrix @ weights)))
        weights -= 2e-3 * gradient
    scores = dense(test) @ weights
    # Where both replies have the same words the score is zero but for rounding.
    expected = np.where(np.abs(scores) < 1e-9, 0.5, scores > 0)
    clear = (np.abs(scores) > 1e-3) | (expected == 0.5)
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(bag_of_words_baseline(train)(test)[clear], expected[clear])


def test_the_bag_of_words_is_the_same_each_time() -> None:
    train, test = random_pairs(3, 500), random_pairs(4, 500)
    first = bag_of_words_baseline(train)(test)
    np.testing.assert_array_equal(bag_of_words_baseline(train)(test), first)
    assert first.mean() > 0.6


def test_separable_pairs_and_large_counts_do_not_overflow() -> None:
    train = pairs(*[("yes " * 2000, "no " * 2000)] * 50)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert bag_of_words_baseline(train)(pairs(("yes", "no"))).tolist() == [1]


def test_no_pairs_to_learn_from_make_every_test_pair_a_tie() -> None:
    test = pairs(("aa", "b"), ("b", "aa"))
    assert bag_of_words_baseline([])(test).tolist() == [0.5, 0.5]
    assert bag_of_words_baseline(test)([]).tolist() == []


@pytest.mark.slow
def test_thirty_thousand_pairs_take_seconds() -> None:
    words = tuple(f"word{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(600))
    started = time.process_time()
    assert bag_of_words_baseline(random_pairs(5, 30_000, words))(random_pairs(6, 2000, words)).mean() > 0.5
    assert time.process_time() - started < 15
