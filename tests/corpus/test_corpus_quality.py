"""Language and quality: one tiny document per rejection reason (known faults D06, D12)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.corpus.config import CorpusConfig, QualityConfig, SourceConfig
from danlu.corpus.inputs import PAGE, SOURCE_CODE, TEXT
from danlu.corpus.language import identify, is_code, other_share, script
from danlu.corpus.records import Record
from danlu.corpus.score import Scorer
from danlu.corpus.scores.rules import measure, verdict
from danlu.corpus.thresholds import reasons

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
    return verdict(measure(text, language), language, is_page, QualityConfig())


def fate(record: Record, config: CorpusConfig) -> tuple[str, str]:
    """Step and reason of one record, "" both for one that stays."""
    row = Scorer(config, None).row(record)
    missing = {name: np.nan for name, value in row.items() if value is None and name not in ("step", "reason")}
    columns = {name: np.array([value if value is not None else ""]) for name, value in (row | missing).items()}
    step, why = reasons(columns, config)
    return step[0], why[0]


def text_record(text: str, **values: str) -> Record:
    return Record(record="r", source="s", url="u", kind=TEXT, body=text.encode(), **values)


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
        ("few_han", "一次性用品的价格与地址" * 6 + "Floor room number street building " * 8),
        ("much_punctuation", "好，的！是？了。在、和；" * 12 + "一次性用品的价格与地址和其他说明都在这里可以看到"),
        (
            "boilerplate",
            "\n".join([CHINESE[:53], "登录 | 注册", "联系我们  关于我们", "某某网络公司 版权所有", "责任编辑：王某"]),
        ),
    ],
)
def test_chinese_has_its_own_counterparts(name: str, text: str) -> None:
    assert reason(text, "zh") == name


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.sampled_from(["zh", "en", "ja", "code", "fr"]))
def test_every_share_lies_between_0_and_1(text: str, language: str) -> None:
    counts = {"words", "mean_word_length", "stop_words", "sentences", "longest_line"}
    # `lorem_ipsum` is 0 or 1.
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
    assert identify(text)[0] == "zh"
    assert identify(text) == identify(text.replace("\n", " "))
    assert identify(ENGLISH.replace(" ", "\n"))[0] == "en"


@pytest.mark.parametrize("text", ["LOVE", "Half...", "你好", "", "12345 67890 " * 20])
def test_short_texts_have_no_language(text: str) -> None:
    assert fate(text_record(text), CorpusConfig())[1] in ("language_unknown", "empty")


def test_old_chinese_is_chinese() -> None:
    text = "且说董卓字仲颖，陇西临洮人也，官拜河东太守，自来骄傲。当日怠慢了玄德，张飞性发，便欲杀之。"
    assert identify(text)[0] == "zh"


def test_simplified_and_traditional_characters_are_told_apart() -> None:
    assert script("我们在图书馆里学习简体中文") == "Hans"
    assert script("我們在圖書館裡學習繁體中文") == "Hant"
    assert script("你好") == script("hello") == ""


def test_a_text_in_two_languages_is_marked_and_can_be_dropped() -> None:
    assert other_share(f"{CHINESE}\n{ENGLISH}\n{CHINESE}\n{ENGLISH}", "en") > 0.2
    assert other_share(f"{CHINESE}\n{CHINESE[::-1]}", "zh") == other_share(ENGLISH, "en") == 0
    halves = text_record(f"{ENGLISH}\n\n{CHINESE}")
    lenient = QualityConfig(min_han_zh=0.0)
    assert fate(halves, CorpusConfig(quality=lenient)) == ("", "")
    assert fate(halves, CorpusConfig(quality=lenient, keep_mixed=False)) == ("language", "mixed")


PROGRAM = (
    "import os\n\ndef main(path):\n    with open(path) as stream:\n        return stream.read()\n\nprint(main('a'))\n"
)


def test_programs_are_known_by_their_content_too() -> None:
    assert is_code(PROGRAM)
    assert is_code("#!/bin/sh\necho hello")
    assert not is_code(ENGLISH)
    assert not is_code(CHINESE)
    assert fate(text_record(PROGRAM), CorpusConfig(languages=("en",))) == ("language", "other_language")
    assert fate(text_record(PROGRAM), CorpusConfig()) == ("", "")


def test_a_source_has_an_allow_list_of_its_own() -> None:
    config = CorpusConfig(sources={"s": SourceConfig(languages=("zh",))})
    assert fate(text_record(ENGLISH), config) == ("language", "other_language")
    assert fate(text_record(CHINESE), config) == ("", "")
    books = CorpusConfig(sources={"s": SourceConfig(kind="books")}, quality=QualityConfig(max_words=50))
    assert fate(text_record(ENGLISH), books) == ("", "")
    assert fate(text_record(ENGLISH), CorpusConfig(quality=QualityConfig(max_words=50))) == ("quality", "too_long")
    web = CorpusConfig(sources={"s": SourceConfig(kind="web")})
    assert fate(text_record(ENGLISH.replace(".", "")), web) == ("quality", "few_sentences")


@pytest.mark.parametrize(
    ("kind", "body", "problem", "expected"),
    [
        (TEXT, b"", "too_large", ("read", "too_large")),
        (TEXT, b"\xff\xfe\xfa broken \xf5 bytes", None, ("read", "invalid_encoding")),
        (PAGE, b"<html><body></body></html>", None, ("extract", "empty")),
        (SOURCE_CODE, b"  \n\t\n", None, ("extract", "empty")),
        (TEXT, b"LOVE", None, ("language", "language_unknown")),
        (TEXT, "Это русский текст, и букв достаточно.".encode(), None, ("language", "other_language")),
        (TEXT, ENGLISH.encode(), None, ("", "")),
        (SOURCE_CODE, b"def f(x):\n    return x + 1\n", None, ("", "")),
    ],
)  # fmt: skip
def test_each_step_names_its_reason(kind: str, body: bytes, problem: str | None, expected: tuple) -> None:
    record = Record(record="r", source="s", url="u", kind=kind, body=body, problem=problem)
    assert fate(record, CorpusConfig()) == expected
