"""Quality rules: Gopher's and C4's, with counterparts for Chinese; source code has lenient rules of its own.

In: a text and its language. Out: scores (every share lies between 0 and 1, both sides of it counted in the same
units). Apart from them, the rules: of documents' scores, which documents break which rule, in one pass over columns.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from danlu.corpus.config import CODE, QualityConfig
from danlu.corpus.language import HAN
from danlu.corpus.tokens import MULTIPLIER

Scores = dict[str, float]

STOP_WORDS_EN = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
"""Gopher, appendix A."""
STOP_WORDS_ZH = frozenset("的是了在和有不这为与以之也而于其就都着被把等将从到对由及或一曰")
"""Our counterpart: the commonest function characters of modern Chinese, and those of the old language."""
STOP_WORDS = {"en": STOP_WORDS_EN, "zh": STOP_WORDS_ZH}
UNSPACED = frozenset(["zh", "ja", "th", "lo", "km", "my", "bo"])
"""Languages written without spaces between words: their rules count characters."""
BULLETS = ("-", "*", "•", "●", "·", "■", "◆", "○", "▪")
ELLIPSES = ("...", "…", "。。。")
SENTENCE_ENDS = re.compile(r"[。！？!?]+|\.(?=\s|$)")
LONG_NGRAMS = range(5, 11)
MEASURED_UNITS = 300_000
"""Words or characters whose n-grams are counted: longer documents are too long by default, and memory stays small."""
CHARACTERS_A_WORD = 2
"""An n-gram of words in Chinese is taken as one of twice as many characters: most Chinese words have two."""


def measure(text: str, language: str) -> Scores:
    """Scores of a text; the rules for words see characters in Chinese."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    by_characters = language in UNSPACED
    units: Sequence[str] = "".join(text.split()) if by_characters else text.split()
    counts = Counter(text)
    num = count_classes(counts)
    visible, letters = num(CLASSES.VISIBLE), num(CLASSES.LETTER)
    scores = {
        "words": float(letters if by_characters else len(units)),
        "mean_word_length": visible / max(len(units), 1),
        "symbols": share(num_symbols(text, units), len(units)),
        "bullet_lines": share(sum(line.startswith(BULLETS) for line in lines), len(lines)),
        "ellipsis_lines": share(sum(line.endswith(ELLIPSES) for line in lines), len(lines)),
        "alphabetic": share(letters if by_characters else num_with_letter(units), len(units)),
        "alphanumeric": share(num(CLASSES.ALPHANUMERIC), len(text)),
        "stop_words": float(len({unit.lower() for unit in set(units)} & STOP_WORDS.get(language, frozenset()))),
        "sentences": float(len(SENTENCE_ENDS.findall(text))),
        "braces": share(counts["{"] + counts["}"], len(text)),
        "longest_line": float(max(map(len, lines), default=0)),
        "han": share(num(CLASSES.HAN), visible),
        "punctuation": share(num(CLASSES.SIGN), visible),
        "boilerplate": share(sum(len(line) for line in lines if is_boilerplate(line)), sum(map(len, lines))),
        "lorem_ipsum": float("lorem ipsum" in text.lower()),
    }
    return scores | repetition(lines, units[:MEASURED_UNITS], CHARACTERS_A_WORD if by_characters else 1)


BOILERPLATE = re.compile(
    r"""^\W*(?:(?:
    登录|注册|首页|返回(?:首页|顶部|列表)?|上一[页篇条]|下一[页篇条]|查看?更多|更多|分享到?|收藏|评论|点赞|举报|打印|关闭|客户端|扫一扫|手机版|网站地图
    |联系我们|关于我们|免责声明|版权声明|热门|推荐|相关(?:阅读|新闻|文章|推荐)|广告|字号|大|中|小|订阅|搜索|微信|微博|朋友圈|QQ空间|导航|阅读全文|阅读
    |home|sign\ ?(?:in|up)|log\ ?(?:in|out)|register|menu|search|share(?:\ this)?|tweet|print|e-?mail|comments?|reply
    |subscribe|newsletter|next|previous|prev|back(?:\ to\ top)?|read\ more|more|related(?:\ articles)?|advertisement
    |privacy\ policy|terms(?:\ of\ (?:use|service))?|cookies?(?:\ policy)?|contact(?:\ us)?|about(?:\ us)?|faq|help
    |follow\ us|facebook|twitter|instagram|youtube|pinterest|click\ here|skip\ to\ content
    )(?:[\W\d]+|$))+$
    |^\W*(?:(?:责任编辑|编辑|来源|作者|记者|浏览次数|阅读次数)[:：].{0,24}
    |.{0,20}(?:版权所有|京ICP备|ICP备案|公网安备|增值电信业务|许可证|未经.{0,8}(?:许可|授权)|转载请注明|copyright
    |all\ rights\ reserved).{0,30})$""",
    re.VERBOSE | re.IGNORECASE,
)
"""A line of nothing but navigation, imprint or sharing."""
BOILERPLATE_CHARACTERS = 60
"""Longer lines are text. Our choice."""


def is_boilerplate(line: str) -> bool:
    return len(line) <= BOILERPLATE_CHARACTERS and BOILERPLATE.match(line) is not None


class CharacterClasses(dict[str, int]):
    """What a character is, as bits; asked once for each character there is."""

    VISIBLE, LETTER, ALPHANUMERIC, HAN, SIGN = 1, 2, 4, 8, 16

    def __missing__(self, character: str) -> int:
        bits = (
            self.VISIBLE * (not character.isspace()) | self.LETTER * character.isalpha()
            | self.ALPHANUMERIC * character.isalnum() | self.HAN * bool(HAN.match(character))
            | self.SIGN * (unicodedata.category(character)[0] in "PS")
        )  # fmt: skip
        self[character] = bits
        return bits


CLASSES = CharacterClasses()


def count_classes(counts: Counter[str]) -> Callable[[int], int]:
    """From how often each character occurs, a function that says how many of them are of a class."""
    totals = [0] * 32
    for character, count in counts.items():
        totals[CLASSES[character]] += count
    return lambda bit: sum(total for bits, total in enumerate(totals) if bits & bit)


def num_symbols(text: str, units: Sequence[str]) -> int:
    """Units with a `#` or an ellipsis at the end."""
    if "#" not in text and not any(sign in text for sign in ELLIPSES):
        return 0
    return sum("#" in unit or unit.endswith(ELLIPSES) for unit in units)


def num_with_letter(words: Sequence[str]) -> int:
    """Words with a letter in them; most are nothing but letters."""
    others = [word for word in words if not word.isalpha()]
    return len(words) - len(others) + sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in others)


def share(part: float, whole: float) -> float:
    """`part` of `whole`, 0 for nothing of nothing."""
    return part / whole if whole else 0.0


def repetition(lines: list[str], units: Sequence[str], scale: int) -> Scores:
    """Gopher's repetition scores. Blank lines are no lines; the first occurrence of anything is no repetition."""
    firsts = set(lines)
    total = sum(map(len, lines))
    scores = {
        "duplicate_lines": share(len(lines) - len(firsts), len(lines)),
        "duplicate_line_characters": share(total - sum(map(len, firsts)), total),
    }
    if isinstance(units, str):
        tokens = np.frombuffer(units.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        lengths = np.ones(len(tokens), dtype=np.int64)
    else:
        numbers: dict[str, int] = {}
        tokens = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.uint64)
        lengths = np.fromiter(map(len, units), dtype=np.int64, count=len(units))
    grams = RepeatedGrams(tokens)
    for n in (2, 3, 4):
        scores[f"top_{n}gram"] = covered(grams.most_frequent(n * scale), n * scale, lengths)
    for n in LONG_NGRAMS:
        scores[f"duplicate_{n}grams"] = covered(grams.seen_before(n * scale), n * scale, lengths)
    return scores


class RepeatedGrams:
    """Where the n-grams of a text repeat, for growing n: a longer one repeats only where the shorter one at its
    beginning does, so that each n looks at what the one before has left."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens
        self.length = 0
        self.starts = np.arange(len(tokens))
        self.hashes = np.zeros(len(tokens), dtype=np.uint64)

    def grow(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Go on to n-grams of `n` tokens; for each that repeats, which distinct one it is, and how often each is."""
        while self.length < n:
            fits = self.starts + self.length < len(self.tokens)
            self.starts, self.hashes = self.starts[fits], self.hashes[fits]
            # A polynomial hash of the n-gram, a token more each time.
            following = self.tokens[self.starts + self.length]
            self.hashes = self.hashes * np.uint64(MULTIPLIER) + following + np.uint64(1)
            self.length += 1
        if not len(self.starts):
            return self.starts, self.starts
        _, inverse, counts = np.unique(self.hashes, return_inverse=True, return_counts=True)
        repeats = counts[inverse] > 1
        self.starts, self.hashes = self.starts[repeats], self.hashes[repeats]
        return inverse[repeats], counts

    def most_frequent(self, n: int) -> np.ndarray:
        """Where the most frequent n-gram begins, if it repeats; of several the one that comes first."""
        which, counts = self.grow(n)
        if not len(which):
            return self.starts
        # The earliest of the most frequent ones, so that the order of hashes does not matter.
        top = which[np.argmax(counts[which])]
        return self.starts[which == top]

    def seen_before(self, n: int) -> np.ndarray:
        """Where an n-gram begins that has come before."""
        which, _ = self.grow(n)
        # Starts are in order: the first of its kind is where `unique` finds it.
        _, first = np.unique(which, return_index=True)
        is_later = np.ones(len(which), dtype=bool)
        is_later[first] = False
        return self.starts[is_later]


def covered(starts: np.ndarray, n: int, lengths: np.ndarray) -> float:
    """Share of characters inside the n-grams that begin at `starts`; each counted once."""
    if not len(starts):
        return 0.0
    change = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + n, -1)
    inside = np.cumsum(change[:-1]) > 0
    return float(lengths[inside].sum() / lengths.sum())


Columns = Mapping[str, Any]
"""Scores by name: numbers of one document, or arrays of many."""
Rules = tuple[tuple[str, Any], ...]
"""Reasons and whether the document breaks that rule; arrays where the scores are."""


def code_rules(scores: Columns, config: QualityConfig) -> Rules:
    """Source code: the filters of The Stack."""
    return (
        ("code_long_lines", scores["longest_line"] > config.max_code_line),
        ("code_few_letters", scores["alphanumeric"] < config.min_code_alphanumeric),
    )


def unspaced_rules(scores: Columns, config: QualityConfig, is_book: Any) -> Rules:
    """Scripts without spaces between words, counted in characters."""
    return (
        ("too_short", scores["words"] < config.min_characters_zh),
        ("too_long", (scores["words"] > config.max_characters_zh) & ~is_book),
        ("few_letters", scores["alphabetic"] < config.min_alphabetic_zh),
    )


def chinese_rules(scores: Columns, config: QualityConfig) -> Rules:
    """What English rules do not see: pages of names and prices, and of signs."""
    return (
        ("few_han", scores["han"] < config.min_han_zh),
        ("much_punctuation", scores["punctuation"] > config.max_punctuation_zh),
    )


def spaced_rules(scores: Columns, config: QualityConfig, is_book: Any) -> Rules:
    """Gopher's rules for words."""
    return (
        ("too_short", scores["words"] < config.min_words),
        ("too_long", (scores["words"] > config.max_words) & ~is_book),
        ("short_words", scores["mean_word_length"] < config.min_mean_word_length),
        ("long_words", scores["mean_word_length"] > config.max_mean_word_length),
        ("few_letters", scores["alphabetic"] < config.min_alphabetic_words),
    )


def shared_rules(scores: Columns, config: QualityConfig, has_stop_words: Any) -> Rules:
    """Gopher's rules for any language."""
    repeated = [scores[f"top_{n}gram"] > top for n, top in zip((2, 3, 4), config.max_top_ngram, strict=True)]
    passages = [
        scores[f"duplicate_{n}grams"] > limit for n, limit in zip(LONG_NGRAMS, config.max_duplicate_ngrams, strict=True)
    ]
    return (
        ("many_symbols", scores["symbols"] > config.max_symbol_ratio),
        ("bullet_lines", scores["bullet_lines"] > config.max_bullet_lines),
        ("ellipsis_lines", scores["ellipsis_lines"] > config.max_ellipsis_lines),
        ("few_stop_words", (scores["stop_words"] < config.min_stop_words) & has_stop_words),
        ("repeated_lines", scores["duplicate_lines"] > config.max_duplicate_lines),
        ("repeated_lines", scores["duplicate_line_characters"] > config.max_duplicate_line_characters),
        ("repeated_words", np.any(repeated, axis=0)),
        ("repeated_passages", np.any(passages, axis=0)),
        ("boilerplate", scores["boilerplate"] > config.max_boilerplate),
    )


def page_rules(scores: Columns, config: QualityConfig) -> Rules:
    """C4's rules for a whole page."""
    return (
        ("few_sentences", scores["sentences"] < config.min_sentences),
        ("braces", scores["braces"] > config.max_curly_ratio),
        ("lorem_ipsum", scores["lorem_ipsum"] > 0),
    )


def broken_rules(
    scores: Columns, language: np.ndarray, is_web: np.ndarray, is_book: np.ndarray, config: QualityConfig
) -> Rules:
    """Every rule with the documents that break it, in the order in which the first broken one is the reason.

    `language` holds codes, the other two say whether a document is a web page's, and a book's.
    """
    is_code = language == CODE
    is_unspaced = np.isin(language, sorted(UNSPACED)) & ~is_code
    is_spaced = ~is_code & ~is_unspaced
    has_stop_words = np.isin(language, sorted(STOP_WORDS))
    groups = (
        (is_code, code_rules(scores, config)),
        (is_unspaced, unspaced_rules(scores, config, is_book)),
        (language == "zh", chinese_rules(scores, config)),
        (is_spaced, spaced_rules(scores, config, is_book)),
        (~is_code, shared_rules(scores, config, has_stop_words)),
        (is_web & ~is_code, page_rules(scores, config)),
    )
    return tuple((reason, is_meant & is_broken) for is_meant, rules in groups for reason, is_broken in rules)


def verdict(scores: Columns, language: str, is_page: bool, config: QualityConfig) -> str | None:
    """None to keep one document, or the first rule it breaks."""
    values = {name: np.array([value]) for name, value in scores.items()}
    rules = broken_rules(values, np.array([language]), np.array([is_page]), np.array([False]), config)
    return next((reason for reason, is_broken in rules if is_broken[0]), None)
