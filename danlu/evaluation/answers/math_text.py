r"""One way of writing the same mathematics: LaTeX's many forms of a fraction, a sign, a space, a text.

In: an answer as a model or a solution writes it. Out: the same in one form: `\tfrac12`, `\frac 1 2` and `½` become
`\frac{1}{2}`; spacing, delimiters, `\left`, thousands separators and the stop at the end are gone.
"""

import re

from danlu.evaluation.answers.boxes import matching_brace
from danlu.evaluation.answers.number_text import THOUSANDS
from danlu.evaluation.answers.reply_text import plain

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
FRACTIONS = {"½": "1 2", "⅓": "1 3", "⅔": "2 3", "¼": "1 4", "¾": "3 4", "⅕": "1 5", "⅖": "2 5", "⅛": "1 8", "⅙": "1 6"}
SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ", "≤": r"\leq ", "⩽": r"\leq ", "≥": r"\geq ", "⩾": r"\geq ", "≠": r"\neq ", "±": r"\pm ",
    "∈": r"\in ", "°": r"^\circ ", "º": r"^\circ ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "√": r"\sqrt ", "≈": r"\approx ", "\u2044": "/", "：": ":", "⟨": "(", "⟩": ")",
}  # fmt: skip

SPELLINGS = [
    (r"\\\\(?=[A-Za-z]{2,}\{)(?!text)", r"\\"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|boldsymbol|mathbf|bm)(?![A-Za-z])", ""),
    (r"\\(?:text(?:rm|bf|it|normal|sf|tt)|mbox|hbox|mathrm|mathsf|operatorname)\s*(?=\{)", r"\\text"),
    (r"\\text\s+\{", r"\\text{"),
    (r"(?<!\\)\\!", ""),
    # A double backslash ends the row of a matrix, with or without a space behind it.
    (r"(?<!\\)\\(?:[,;: >]|quad(?![A-Za-z])|qquad(?![A-Za-z]))|~|\s+", " "),
    (r"\\(?:le|leqslant)(?![A-Za-z])", r"\\leq"),
    (r"\\(?:ge|geqslant)(?![A-Za-z])", r"\\geq"),
    (r"\\ne(?![A-Za-z])|!=", r"\\neq "),
    (r"<=", r"\\leq "),
    (r">=", r"\\geq "),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\langle(?![A-Za-z])", "("),
    (r"\\rangle(?![A-Za-z])", ")"),
    (r"\\[lr]?[vV]ert(?![A-Za-z])", "|"),
    (r"\\ast(?![A-Za-z])|\*(?!\*)", r"\\cdot "),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])|\{\s*\^\\circ\s*\}", r"^\\circ "),
    (r"\\%|%|\\text\{\s*percent\s*\}|\bpercent\b", "%"),
    (r"(?<![A-Za-z\\])(?:infinity|inf|infty)(?![A-Za-z])", r"\\infty "),
    (r"(?<![A-Za-z\\])sqrt(?![A-Za-z])", r"\\sqrt "),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"_\s*\{\s*(\w+)\s*\}", r"_\1"),
    (r"\\text\{\s*(,?\s*(?:and|or)|,|;)\s*\}", r" \1 "),
    (r"\\text\{([\d\s.,+\-/]*)\}", r"\1"),
    (r"\\text\{\s*(-?\d(?:[\d:.,/]*\d)?)\s+([^{}]*)\}", r"\1\\text{ \2}"),
    (r"\+/-|\+-", r"\\pm "),
]  # fmt: skip
SPELLING = [(re.compile(pattern), spelt) for pattern, spelt in SPELLINGS]
"""What is written in many ways, and the one way it gets here; in this order."""

DELIMITERS = re.compile(r"(?<!\\)\$+|(?<!\\)\\[()\[\]]|^\s*\*\*|\*\*\s*$")
MONEY = re.compile(r"(?:\\\$|(?<![\d\w}])[€£¥￥])\s*(\d[\d,]*(?:\.\d+)?|\.\d+)")
LONE_DOLLAR = re.compile(r"^(\s*-?)\$(?=\s*\.?\d[^$]*$)")
DEEPEST, LONGEST = 25, 1_000
"""Nesting and letters of an answer that is looked into; others are compared as they stand. Our choice: MATH's answers
have at most 6 and 120."""


def canonical(text: str) -> str:
    """`text` in one form. Nothing is computed."""
    text = _signs(plain(text))
    text = LONE_DOLLAR.sub(r"\1\\$", text)
    text = DELIMITERS.sub(" ", THOUSANDS.sub("", text))
    text = MONEY.sub(r"\1\\text{dollars}", text).replace(r"\$", "")
    for pattern, spelt in SPELLING:
        text = pattern.sub(spelt, text)
    text = text.replace("**", "^")
    text = _braced(text.strip().rstrip(".").strip()) if len(text) <= LONGEST else text
    return " ".join(text.split())


def _signs(text: str) -> str:
    """Unicode's signs of mathematics as LaTeX."""
    for sign, digits in FRACTIONS.items():
        above, below = digits.split()
        text = text.replace(sign, rf"\frac{{{above}}}{{{below}}}")
    text = re.sub(rf"[{''.join(SUPERSCRIPTS)}]+", lambda m: f"^{{{''.join(SUPERSCRIPTS[s] for s in m[0])}}}", text)
    text = re.sub(rf"[{''.join(SUBSCRIPTS)}]+", lambda m: f"_{{{''.join(SUBSCRIPTS[s] for s in m[0])}}}", text)
    for sign, latex in SIGNS.items():
        text = text.replace(sign, latex)
    return text


ARGUMENT = re.compile(r"\s*(\\[A-Za-z]+|\w|\((?:[^()]*)\))")


def _braced(text: str) -> str:
    r"""`\frac12`, `\frac9{19}` and `\sqrt3` with braces around their arguments."""
    position = 0
    while found := re.compile(r"\\(frac|sqrt)(?![A-Za-z])\s*(\[[^\[\]]*\])?").search(text, position):
        head = rf"\{found[1]}{found[2] or ''}"
        rest = text[found.end() :]
        for _ in range(2 if found[1] == "frac" else 1):
            argument, rest = _argument(rest)
            head += argument
        position = found.start() + len(rf"\{found[1]}")
        text = text[: found.start()] + head + rest
    return text


def _argument(rest: str) -> tuple[str, str]:
    """The argument that `rest` begins with, in braces, and what follows it."""
    if rest.lstrip().startswith("{"):
        rest = rest.lstrip()
        closing = matching_brace(rest, 0)
        return ("", rest) if closing is None else (rest[: closing + 1], rest[closing + 1 :])
    found = ARGUMENT.match(rest)
    if found is None:
        return "", rest
    inner = found[1][1:-1] if found[1].startswith("(") else found[1]
    return f"{{{inner}}}", rest[found.end() :]


def key(text: str) -> str:
    """A canonical text without the spaces that mean nothing: two equal keys are the same answer."""
    text = re.sub(r"\\text\{\s*([^{}]*?)\s*\}", r"\\text{\1}", text)
    text = re.sub(r"\s+(?=[^A-Za-z0-9])|(?<=[^A-Za-z0-9])\s+|(?<=\d)\s+(?=[A-Za-z])", "", text)
    return re.sub(r"(?<![\w)}\]])\+(?=\d|\\infty)", "", text)


def is_simple(text: str) -> bool:
    """Whether a text is short and flat enough to look into."""
    depth = deepest = 0
    for sign in text[: LONGEST + 1]:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return len(text) <= LONGEST and deepest <= DEEPEST
