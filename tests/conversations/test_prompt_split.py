"""Families of prompts are those of comparing all pairs, and a split never tears one apart."""

import time
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import pytest

from danlu.conversations.comparisons import Comparison
from danlu.conversations.prompt_split import (
    normalised_prompt,
    prompt_families,
    split_by_prompt,
    without_shared_prompts,
)
from danlu.conversations.records import Conversation, Message


def compare(prompt: str, *before: tuple[str, str]) -> Comparison:
    """A comparison that says `prompt` after the other turns."""
    return Comparison((*(Message(*turn) for turn in before), Message("user", prompt)), "a", "b")


def shingles(text: str) -> set[str]:
    text = normalised_prompt(text)
    return {text[start : start + 5] for start in range(max(len(text) - 4, 1))}


def families_of_all_pairs(prompts: Sequence[str]) -> list[int]:
    """Each prompt gets the smallest number that a chain of near prompts leads to."""
    sets = [shingles(prompt) for prompt in prompts]
    near = [
        [other for other, two in enumerate(sets) if Fraction(len(one & two), len(one | two)) >= Fraction(9, 10)]
        for one in sets
    ]
    families = list(range(len(prompts)))
    for _ in prompts:
        families = [min(families[other] for other in near[place]) for place in range(len(prompts))]
    return families


def partition(families: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(place for place, other in enumerate(families) if other == family) for family in set(families)}


def edited(source: Random, text: str, num_edits: int, letters: str) -> str:
    """Letters replaced, dropped and put in."""
    characters = list(text)
    for _ in range(num_edits):
        place = source.randrange(len(characters))
        characters[place : place + source.randint(0, 1)] = source.choice(("", source.choice(letters)))
    return "".join(characters)


@pytest.mark.parametrize("seed", range(40))
def test_families_are_those_of_comparing_all_pairs(seed: int) -> None:
    source = Random(seed)
    # Few letters make shingles recur, many make them rare; the edits lie on both sides of the border.
    letters = source.choice(("ab", "abcdefgh", "丹炉火山水月日木金土"))
    prompts: list[str] = []
    for _ in range(6):
        base = "".join(source.choices(letters, k=source.choice((4, 9, 20, 60, 150))))
        prompts += [edited(source, base, source.randint(0, 4), letters) for _ in range(8)]
    source.shuffle(prompts)
    assert partition(prompt_families(prompts)) == partition(families_of_all_pairs(prompts))


def test_families_are_numbered_by_their_first_members() -> None:
    assert prompt_families(["one", "two", "one", "three", "two"]) == [0, 1, 0, 2, 1]
    assert prompt_families([]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, world!", "hello world"),
        ("２ ＋ ９ ＝ ？", "2+9="),
        ("“猫”用英语怎么说？", "猫 用英语怎么说"),
        ("STRASSE", "Straße"),
        ("Count: cat cat cat", "Count: cat cat cat cat"),
    ],
)
def test_case_width_space_punctuation_and_repetition_make_no_other_prompt(one: str, other: str) -> None:
    assert prompt_families([one, other]) == [0, 0]


@pytest.mark.parametrize(("one", "other"), [("2 + 9", "2 + 8"), ("cat", "cats"), ("说猫", "说狗"), ("2 + 9", "2 - 9")])
def test_short_prompts_that_differ_are_of_different_families(one: str, other: str) -> None:
    assert prompt_families([one, other]) == [0, 1]


def test_the_border_of_near_prompts_belongs_to_them() -> None:
    letters = "abcdefghijklmnopqrstuvw"
    # 19 shingles each, 18 shared of 20: exactly 0.9. One letter less gives 17 of 19.
    assert prompt_families([letters, letters[:-1] + "z"]) == [0, 0]
    assert prompt_families([letters[1:], letters[1:-1] + "z"]) == [0, 1]


def test_a_chain_of_near_prompts_is_one_family() -> None:
    letters = "".join(chr(0x4E00 + number) for number in range(60))
    chain = [letters[start : start + 40] for start in range(10)]
    assert len(shingles(chain[0]) & shingles(chain[-1])) < 30
    assert prompt_families(chain) == [0] * 10
    assert prompt_families([chain[0], chain[-1]]) == [0, 1]


def many(count: int, num_families: int) -> list[Comparison]:
    """Comparisons with two ways to write each of the prompts."""
    return [compare(f"{'Say' if number % 2 else 'say '} number {number % num_families}!") for number in range(count)]


def test_a_split_keeps_families_whole_and_about_its_share() -> None:
    comparisons = many(4000, 999)
    train, test = split_by_prompt(comparisons, 0.2, seed=1)
    assert len(train) + len(test) == 4000
    assert {normalised_prompt(pair.messages[0].content) for pair in train}.isdisjoint(
        normalised_prompt(pair.messages[0].content) for pair in test
    )
    assert 0.15 < len(test) / 4000 < 0.25
    assert split_by_prompt(comparisons, 0.0, seed=1) == (comparisons, [])
    assert split_by_prompt(comparisons, 1.0, seed=1) == ([], comparisons)


def test_a_split_depends_on_the_seed_and_not_on_the_order() -> None:
    comparisons = many(600, 300)
    shuffled = Random(3).sample(comparisons, 600)
    first, again = (
        {pair.messages for pair in split_by_prompt(pairs, 0.3, seed=1)[1]} for pairs in (comparisons, shuffled)
    )
    assert first == again
    assert first != {pair.messages for pair in split_by_prompt(comparisons, 0.3, seed=2)[1]}


def test_training_prompts_near_a_test_prompt_are_dropped_and_counted() -> None:
    train = [compare("Say: cat"), compare("say cat"), compare("Say: dog"), compare("Say: dog", ("system", "Be brief."))]
    test = [compare("SAY CAT!")]
    assert without_shared_prompts(train, test) == (train[2:], 2)
    assert without_shared_prompts(train, []) == (train, 0)
    conversation = Conversation((Message("user", "say dog"), Message("assistant", "dog")))
    assert without_shared_prompts(train, [conversation]) == (train[:2], 2)


def test_a_system_message_makes_no_other_prompt_but_earlier_turns_do() -> None:
    plain, briefed = compare("Who am I?"), compare("Who am I?", ("system", "Answer briefly."))
    earlier = compare("Who am I?", ("user", "I am Tom."), ("assistant", "Hello, Tom!"))
    assert without_shared_prompts([briefed, earlier], [plain]) == ([earlier], 1)


def templated(count: int) -> list[str]:
    """Different short prompts of a few templates, as the demo has them."""
    source = Random(4)
    templates = ("Repeat:\n{}", "Please say “{}”", "How many words are there: {}", "请照抄：\n{}", "{}用英语怎么说？")
    drawn: set[str] = set()
    while len(drawn) < count:
        words = ("".join(source.choices("abcdefghijklmnop", k=source.randint(3, 9))) for _ in range(3))
        drawn.add(source.choice(templates).format(" ".join(words)))
    return sorted(drawn)


def seconds(prompts: Sequence[str]) -> float:
    started = time.process_time()
    prompt_families(prompts)
    return time.process_time() - started


def test_twice_as_many_templated_prompts_take_about_twice_as_long() -> None:
    assert seconds(templated(8000)) < 6 * seconds(templated(4000)) + 0.5


@pytest.mark.slow
def test_fifty_thousand_templated_prompts_take_seconds() -> None:
    assert seconds(templated(50_000)) < 15


@pytest.mark.slow
def test_fifty_thousand_prompts_with_a_long_shared_part_take_seconds() -> None:
    shared = "You are a careful assistant who reads the question below twice and answers it in one sentence. " * 2
    assert seconds([f"{shared}Question {number * 7919 % 100_003}" for number in range(50_000)]) < 60
