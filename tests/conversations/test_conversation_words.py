"""Words are found in running text, and the split keeps unseen ones out of everything else."""

from random import Random

from danlu.conversations.config import ConversationsConfig
from danlu.conversations.lexicon import MinedWords, Vocabulary, contained_strings, made_up_word, split_words
from danlu.conversations.mining import frequent_characters, limited, mine_chinese, mine_english
from danlu.conversations.skills.exchange import WordDraw


def test_english_words_come_by_frequency_and_whole() -> None:
    texts = ["the fox, the fox and the owl; don't snake_case x2y Capital ox internationalisation", "the owl"]
    assert mine_english(texts, 10, 2) == ["the", "fox", "owl"]
    assert mine_english(texts, 10, 1)[3:] == ["and"]
    assert mine_english(texts, 1, 1) == ["the"]


def test_chinese_words_are_found_without_a_dictionary() -> None:
    source = Random(7)
    filler = [chr(0x4E00 + number) for number in range(300)]
    pieces = []
    for _ in range(600):
        pieces += source.choices(filler, k=source.randint(5, 12))
        pieces.append(source.choice(("葡萄", "图书馆", "人工智能")))
    text = "".join(pieces)
    # Long words first: parts of a word are no words, since what stands beside them never varies.
    assert set(mine_chinese([text[:1500], text[1500:]], 10, 50)) == {"葡萄", "图书馆", "人工智能"}


def test_chinese_words_never_reach_over_other_characters() -> None:
    assert not [word for word in mine_chinese(["葡，萄" * 50], 10, 2) if word == "葡萄"]
    assert mine_chinese([], 10, 2) == []
    assert mine_chinese(["only english \ud800"], 10, 2) == []


def test_characters_come_by_frequency() -> None:
    assert frequent_characters(["丹炉炉", "炉丹火"]) == ["炉", "丹", "火"]


def test_reading_stops_at_the_limit() -> None:
    endless = ("x" * 10_000_000 for _ in iter(int, 1))
    assert len(limited(endless)) == 3


def test_contained_strings_are_all_that_could_be_words() -> None:
    assert set(contained_strings("Tom 买葡萄")) == {"tom", "买葡", "葡萄", "买葡萄"}
    assert set(contained_strings("cats")) == {"cat", "ats", "cats"}


def split(words: tuple[str, ...], fixed: set[str], language: str = "en") -> Vocabulary:
    return split_words(MinedWords(language, words, ("丹", "炉")), ConversationsConfig(), fixed)


def test_no_seen_word_contains_an_unseen_one() -> None:
    source = Random(3)
    words = tuple(dict.fromkeys(made_up_word(source, "en", ()) for _ in range(3000)))
    vocabulary = split(words, set())
    hidden = set(vocabulary.unseen)
    assert 0.1 < len(hidden) / len(words) < 0.25
    assert not [word for word in vocabulary.seen if not hidden.isdisjoint(contained_strings(word))]
    assert set(vocabulary.seen) | hidden <= set(words)


def test_the_split_depends_on_the_word_not_on_the_others() -> None:
    source = Random(4)
    words = tuple(dict.fromkeys(made_up_word(source, "en", ()) for _ in range(2000)))
    whole, part = split(words, set()), split(words[::2], set())
    assert set(part.unseen) >= set(whole.unseen) & set(words[::2])


def test_words_of_the_templates_are_never_unseen() -> None:
    source = Random(5)
    words = tuple(dict.fromkeys(made_up_word(source, "en", ()) for _ in range(500)))
    chosen = set(split(words, set()).unseen)
    assert not chosen & set(split(words, chosen).unseen)


def test_unseen_words_are_drawn_with_the_ranks_of_the_seen_ones() -> None:
    source = Random(6)
    words = tuple(dict.fromkeys(made_up_word(source, "en", ()) for _ in range(4000)))
    vocabulary = split(words, set())
    medians = []
    for draw in (vocabulary.testing_draw(), vocabulary.unseen_draw()):
        ranks = sorted(vocabulary.ranks[draw.word(source)] for _ in range(3000))
        medians.append(ranks[1500] / len(words))
    assert abs(medians[0] - medians[1]) < 0.05, medians


def test_words_drawn_together_never_contain_each_other() -> None:
    draw = WordDraw(word=lambda source: source.choice(["cat", "cats", "dog"]), frequent=lambda source: "cat")
    for seed in range(50):
        first, second = draw.words(Random(seed), 2)
        assert first not in second
        assert second not in first


def test_made_up_words_have_the_length_of_words() -> None:
    source = Random(8)
    assert all(4 <= len(made_up_word(source, "en", ())) <= 10 for _ in range(500))
    assert all(2 <= len(made_up_word(source, "zh", ("丹", "炉"))) <= 3 for _ in range(100))
