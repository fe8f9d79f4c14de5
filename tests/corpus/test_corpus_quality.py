"""Language and quality: one tiny document per rejection reason (known faults D06, D12)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.corpus.clean import clean
from danlu.corpus.config import CorpusConfig, QualityConfig
from danlu.corpus.language import identify
from danlu.corpus.quality import measure, verdict
from danlu.corpus.records import PAGE, SOURCE_CODE, TEXT

ENGLISH = (
    "The town of Scunthorpe lies in the north of England, and the people of Essex know it mostly from the map. "
    "Both places have harbours, markets and old churches that visitors like to see in summer. A train from London "
    "takes about three hours, with one change on the way, and the fare is higher on weekends than it used to be."
)
CHINESE = (
    "一次性用品是指使用后即丢弃的物品，其性质决定了它不能重复使用。与重复性用品相比，这类产品的生产成本较低，"
    "但对环境的影响更大。据统计，全球共有13个国家已经立法限制一次性塑料制品，并鼓励企业研究可降解的材料。"
)
POEM = """I wandered lonely as a cloud
That floats on high o'er vales and hills,
When all at once I saw a crowd,
A host, of golden daffodils;

Beside the lake, beneath the trees,
Fluttering and dancing in the breeze.

Continuous as the stars that shine
And twinkle on the milky way,
They stretched in never-ending line
Along the margin of a bay."""
FILLER = " ".join(ENGLISH.split()[:40])


def reason(text: str, language: str, is_page: bool = False) -> str | None:
    return verdict(measure(text, language), text, language, is_page, QualityConfig())


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (CHINESE, "zh"), (POEM, "en")])
def test_ordinary_prose_passes(text: str, language: str) -> None:
    assert reason(text, language) is None
    assert reason(text, language, is_page=text != POEM) is None


def test_repeated_lines_are_counted_after_the_first() -> None:
    assert measure("a b c d e f\n" * 5, "en")["duplicate_lines"] == 4 / 5


def test_blank_lines_are_no_repeats() -> None:
    assert measure(POEM, "en")["duplicate_lines"] == 0


REJECTED = {
    "too_short": ("The cat sat on the mat and that was it.", "en"),
    "too_long": ("the and " * 50_001, "en"),
    "short_words": ("to be of a it is in on at we " * 10, "en"),
    "long_words": ("the and " + "internationalisation " * 60, "en"),
    "few_letters": ("the and " + "1234 " * 60, "en"),
    "many_symbols": ("the and of " + "#word other thing " * 20, "en"),
    "bullet_lines": ("\n".join(f"- {word} station and the harbour" for word in ENGLISH.split()), "en"),
    "ellipsis_lines": (
        "\n".join(f"The {word} of Essex, and that one with it came to be known..." for word in ENGLISH.split()),
        "en",
    ),
    "few_stop_words": (" ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(80)), "en"),
    "repeated_lines": (ENGLISH + "\nThe same line again and again.".join([""] * 9), "en"),
    "repeated_words": (" ".join(f"{word} good dog" for word in dict.fromkeys(ENGLISH.split())), "en"),
    "repeated_passages": (f"{FILLER} Then came something new. {FILLER} And the end of that was near. {FILLER}", "en"),
    "code_long_lines": ("x = '" + "a" * 1001 + "'", "code"),
    "code_few_letters": ("+-*/=<>()[]{};:,." * 10, "code"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_each_rule_has_a_document_that_breaks_it(name: str) -> None:
    assert reason(*REJECTED[name]) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("few_sentences", " ".join(word.strip(".") for word in ENGLISH.split())),
        ("braces", ENGLISH + " {}" * 10),
        ("lorem_ipsum", ENGLISH + " Lorem ipsum dolor sit amet."),
    ],
)
def test_each_rule_for_pages_has_a_document_that_breaks_it(name: str, text: str) -> None:
    assert reason(text, "en", is_page=True) == name
    assert reason(text, "en") is None, "the rule is for web pages only"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("too_short", "今天的天气很好，我们去了公园。"),
        ("too_long", "的了" * 100_001),
        ("few_letters", "这是一张表的开头和它的数字" * 5 + "12345 67890 " * 30),
        ("few_stop_words", "江河湖海山川草木鸟兽虫鱼金银铜铁" * 4),
        ("repeated_passages", (CHINESE[:60] + "然后发生了新的事情。") * 3),
    ],
)
def test_chinese_has_its_own_counterparts(name: str, text: str) -> None:
    assert reason(text, "zh") == name


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.sampled_from(["zh", "en", "ja", "code", "fr"]))
def test_every_share_lies_between_0_and_1(text: str, language: str) -> None:
    counts = {"words", "mean_word_length", "stop_words", "sentences", "longest_line"}
    for name, value in measure(text, language).items():
        assert name in counts or 0 <= value <= 1, f"{name} is {value}"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "性", "\n", "\n\n", "..."]), max_size=80))
def test_repetitive_text_stays_within_0_and_1_too(pieces: list[str]) -> None:
    for separator, language in ((" ", "en"), ("", "zh")):
        scores = measure(separator.join(pieces), language)
        assert all(0 <= value <= 1 for name, value in scores.items() if "duplicate" in name or "top" in name)


def test_the_language_does_not_depend_on_line_breaks() -> None:
    text = "Home Login\n" + CHINESE * 3
    assert identify(text, 20, 0.5)[0] == "zh"
    assert identify(text, 20, 0.5) == identify(text.replace("\n", " "), 20, 0.5)
    assert identify(ENGLISH.replace(" ", "\n"), 20, 0.5)[0] == "en"


@pytest.mark.parametrize("text", ["LOVE", "Half...", "你好", "", "12345 67890 " * 20])
def test_short_texts_have_no_language(text: str) -> None:
    assert identify(text, 20, 0.5) == ("unknown", 0.0)


def test_old_chinese_is_chinese() -> None:
    assert (
        identify("且说董卓字仲颖，陇西临洮人也，官拜河东太守，自来骄傲。当日怠慢了玄德，张飞性发，便欲杀之。", 20, 0.5)[
            0
        ]
        == "zh"
    )


@pytest.mark.parametrize(
    ("kind", "body", "problem", "expected"),
    [
        (TEXT, b"", "too_large", ("read", "too_large")),
        (TEXT, b"\xff\xfe\xfa broken \xf5 bytes", None, ("read", "invalid_encoding")),
        (PAGE, b"<html><body></body></html>", None, ("extract", "empty")),
        (SOURCE_CODE, b"  \n\t\n", None, ("extract", "empty")),
        (TEXT, b"LOVE", None, ("language", "language_unknown")),
        (TEXT, "Это русский текст, и букв достаточно.".encode(), None, ("language", "other_language")),
        (TEXT, ENGLISH.encode(), None, (None, None)),
        (SOURCE_CODE, b"def f(x):\n    return x + 1\n", None, (None, None)),
    ],
)  # fmt: skip
def test_each_step_names_its_reason(kind: str, body: bytes, problem: str | None, expected: tuple) -> None:
    document = clean(kind, body, None, problem, CorpusConfig())
    assert (document.step, document.reason) == expected
