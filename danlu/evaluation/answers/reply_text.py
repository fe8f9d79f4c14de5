"""The part of a reply that may hold its answer, in plain letters.

In: what a model wrote. Out: the text without thoughts, without what follows an end token, and without the questions
that a base model invents when it writes on; full-width letters, curly quotes and the many minus signs made one.
"""

import re

END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "</s>", "<|eot_id|>")
"""What models write where a reply is over; nothing behind them belongs to it."""

NEXT_QUESTION = re.compile(
    r"^[ \t]*[*#_]*[ \t]*(?:Question|Q|Problem|Exercise|Instruction|User|Human|问题|题目|问|用户)"
    r"(?:[ \t]*(\d{1,4}))?[*_]*[ \t]*[:：]",
    re.MULTILINE | re.IGNORECASE,
)
"""How the next item of a few-shot prompt begins, at the beginning of a line."""

THOUGHTS = re.compile(r"\s*<think>(?:(?!</think>).)*(</think>)?", re.DOTALL)

WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""The full-width forms of the ASCII signs."""
SIGNS = {
    **dict.fromkeys(map(ord, "‘’ʼ`´"), "'"),
    **dict.fromkeys(map(ord, "“”"), '"'),
    **dict.fromkeys(map(ord, "−‐‑‒–—﹣"), "-"),
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2009\u200a\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "【〔［"), "["),
    **dict.fromkeys(map(ord, "】〕］"), "]"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\ufeff"), None),
    ord("。"): ".",
    ord("、"): ",",
}
"""Backquotes, too: around an answer they are a decoration like any other."""
PLAIN: dict[int, int | str | None] = {**WIDE, **SIGNS}

DECORATIONS = re.compile(
    r"(?<!\d)\*\*|\*\*(?!\d)|__|(?<!\\)\$+|\\[()\[\]]|\\(?:text(?:bf|rm|it|sf|tt)?|mathrm|mathbf|mbox|rm|bf)(?![A-Za-z])"
)
"""Two stars between digits are a power."""
WRAPPED = re.compile(r"\\(?:text(?:bf|rm|it|sf|tt)?|math(?:rm|bf|sf)|mbox|emph)\s*\{([^{}]*)\}")


def before_end_token(reply: str) -> str:
    """The reply up to the first end token in it."""
    for token in END_TOKENS:
        reply = reply.partition(token)[0]
    return reply


def answer_part(reply: str) -> str:
    """What may hold the answer; empty where the reply ends while it still thinks."""
    return _before_next_question(before_end_token(without_thoughts(reply))).strip()


def _before_next_question(text: str) -> str:
    counts_itself = False
    for question in NEXT_QUESTION.finditer(text):
        # A solution may number the parts of its problem.
        counts_itself = counts_itself or question[1] == "1"
        # A reply may begin by repeating the question that it was asked.
        if text[: question.start()].strip() and not (question[1] and counts_itself):
            return text[: question.start()]
    return text


def without_thoughts(reply: str) -> str:
    """The reply without `<think>…</think>` at its beginning; empty where that is never closed."""
    thoughts = THOUGHTS.match(reply)
    if thoughts is None:
        # A template may have opened the thoughts before the reply.
        before, closed, after = reply.partition("</think>")
        return after if closed and "<think>" not in before else reply
    return reply[thoughts.end() :] if thoughts[1] else ""


def plain(text: str) -> str:
    """`text` with one form of every sign: full-width letters, brackets, quotes and minus signs as ASCII."""
    return text.translate(PLAIN)


def undecorated(text: str) -> str:
    """Plain text without the marks of Markdown and LaTeX that stand around an answer."""
    return DECORATIONS.sub("", WRAPPED.sub(r"\1", plain(text)))
