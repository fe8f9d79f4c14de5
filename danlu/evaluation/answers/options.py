"""The option that a reply states, of questions with options A, B, C, … in English and Chinese (known fault E02).

In: a reply. Out: a capital letter, or None. Stated answers win over mentioned ones, the last statement over earlier
ones; an option that is rejected, the A of "Answer", an article and the pronoun I are none.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from danlu.evaluation.answers.boxes import last_box
from danlu.evaluation.answers.number_text import MOST_STATEMENTS
from danlu.evaluation.answers.reply_text import undecorated

BEHIND_A = "because|since|as|for|and|which|is|but|so|by|due|given|while|with|from|based|not|in|option|choice|that"
"""Words that follow an option; before any other word an "A" is an article."""

CUES = (
    r"answer(?: +(?:to|for)\b[^\n.:]{0,80}?)? +(?:(?:is|was)"
    r"(?: +(?:clearly|therefore|thus|just|simply|likely|probably|actually|indeed|definitely)){0,2}"
    r"|(?:would|should|must|will|has to) +be)\b\s*:?",
    r"(?:answers?|ans|option|choice|letter)\"? *[:=>]",
    r"(?:correct|right|best|appropriate|true) +(?:answer|option|choice|one|statement) +"
    r"(?:is|would be|should be|must be)\b\s*:?",
    r"\b(?:option|choice|letter) +(?:is|would be)\b\s*:?",
    r"\b(?:I|we|you)(?:'d| +(?:would|will|should|must|can))? +(?:choose|chose|pick|select|go +with|answer|say)\b *:?",
    r"答案?(?:应该|应当|应|就|选项)?(?:是|为|选择?|[:])\s*:?",
    r"答案\]?\s*(?=[(\[A-Z])",
    r"(?:正确|最佳|合适)(?:的)?(?:答案|选项|选择|的)(?:应该|应)?(?:是|为|[:])\s*:?",
    r"(?<![不别非误错勿排])(?:选择|选)(?!项)(?:的?是|为|[:])?\s*:?",
    r"而是",
)
"""How a statement begins. Our choice, from the phrasings of the field's graders and of instructed models."""
CUE = re.compile("|".join(CUES), re.IGNORECASE)
CONCLUDING = re.compile(
    r"\b(?:so|therefore|thus|hence|it(?:'s| +is| +must +be)|must +be|leaves|conclusion)\b"
    r" *(?:it(?:'s| +is)|only)? *[,:]?|(?:因此|所以|故|综上)[,:]?\s*(?:是|为)?",
    re.IGNORECASE,
)
"""Weaker words before an option; they count where nothing is stated."""
FILLERS = r"\s*(?:(?:the|only|option|choice|letter|answer|is|选项|选|项|:)\s*){0,4}"

BEFORE = re.compile(
    r"(?:\bnot|n't|\bruled? +out|\beliminated?|\bexcept|\brejected?|\binstead +of|\brather +than"
    r"|不是|不选|不能选|不应选|并非|排除|除了|错选|误选) *(?:the +)?(?:option|choice|answer|选项)? *[(\[]?$",
    re.IGNORECASE,
)
AFTER = re.compile(
    r"[)\]]? *(?:选?项)?[,]? *(?:but +)?(?:(?:it|this|that|which) +)?(?:"
    r"(?:is|was|are|would +be|can +be|seems|looks|must +be)(?: +(?:clearly|also|therefore|obviously))? +"
    r"(?:wrong|incorrect|false|not\b|ruled|eliminated|excluded|rejected|a +(?:common +)?(?:trap|distractor))"
    r"|(?:isn't|can't|cannot|doesn't|does +not)|(?:是)?(?:错|不对|不正确|不符|不成立|不能|有误|被?排除|不选|可排除))",
    re.IGNORECASE,
)
SEVERAL = re.compile(r"[)\]]?\s*(?:and|or|和|与|或|/|&)\s*(?:option|choice|选项)?\s*[(\[]?[A-Z]\b(?!')")
IS_RIGHT = (
    r" *(?:选?项)? *(?:(?:is|was|must +be|would +be) +(?:the +)?(?:only +)?(?:correct|right|best|true|answer)"
    r"|(?:是|为)?(?:正确|对的|符合))"
)
OPTION_BLOCK = re.compile(r"\n *\(?A[.):][^\n]*\n *\(?B[.):][^\n]*\n *\(?C[.):]")


def option_letter(reply: str, letters: str = "ABCD") -> str | None:
    """The option that `reply` states, or else the only one that it comes to."""
    box = last_box(reply)
    if box is not None and (boxed := _whole(undecorated(box), letters)):
        return boxed
    text = undecorated(reply)
    first_line = text.strip().split("\n", maxsplit=1)[0]
    if alone := _alone(first_line, letters):
        return alone
    text = _before_invented_options(text, letters)
    if stated := _stated(text, letters) or _called_right(text, letters) or _concluded(text, letters):
        return stated
    # A reply that only repeats the options has none.
    return None if OPTION_BLOCK.match(f"\n{text.strip()}") else _beginning(first_line, letters)


def _whole(text: str, letters: str) -> str | None:
    """The option of a text that is nothing else, or the option with its wording: "B", "(b)", "B. Paris"."""
    return _alone(text, letters) or _beginning(text, letters)


def _alone(line: str, letters: str) -> str | None:
    found = re.fullmatch(
        rf"[\s*_#>'\"]*(?:(?:[Oo]ption|[Cc]hoice|选项) *)?[(\[]?([{letters}{letters.lower()}])[)\]]?[\s*_.,!:;'\"]*",
        line,
    )
    return found[1].upper() if found else None


def _beginning(line: str, letters: str) -> str | None:
    """The option that a line begins with: "B. Paris", "(b) Paris"; never "A good guess"."""
    found = re.match(
        rf"[\s*_#>]*(?:[(\[]([{letters}{letters.lower()}])[)\]]|([{letters}])[.):,](?=\s|$|[\u4e00-\u9fff]))", line
    )
    if found is None or AFTER.match(line, found.end()) or SEVERAL.match(line, found.end()):
        return None
    return (found[1] or found[2]).upper()


def _before_invented_options(text: str, letters: str) -> str:
    """Without the options of a further question, where an answer stands before them."""
    block = OPTION_BLOCK.search(text)
    if block is not None and _stated(text[: block.start()], letters):
        return text[: block.start()]
    return text


def _stated(text: str, letters: str) -> str | None:
    """The last option that is said to be the answer and not rejected."""
    for cue in reversed(list(CUE.finditer(text))[-MOST_STATEMENTS:]):
        if option := _option_at(text, cue.end(), letters) or _bracketed_in_sentence(text, cue.end(), letters):
            return option
    return None


def _called_right(text: str, letters: str) -> str | None:
    """The last option that is said to be right: "B is correct". Of several statements in one reply this is the weaker:
    an explanation goes through the options behind the answer."""
    right = rf"(?<![\w'])(?:(?:option|choice|选项)\s*)?[(\[]?([{letters}])[)\]]?{IS_RIGHT}"
    for said in reversed(list(re.finditer(right, text))[-MOST_STATEMENTS:]):
        if not BEFORE.search(text, max(0, said.start() - 30), said.start()):
            return said[1]
    return None


def _option_at(text: str, start: int, letters: str) -> str | None:
    """The option that stands at `start`, behind words like "option"."""
    filler = re.compile(FILLERS, re.IGNORECASE).match(text, start)
    position = filler.end() if filler else start
    for at in dict.fromkeys((position, start)):
        found = re.compile(
            rf"\s*['\"]?(?:[(\[]\s*([{letters}{letters.lower()}])\s*[)\]]|([{letters}{letters.lower()}])(?![A-Za-z0-9_']\w*|'[a-z]))"
        ).match(text, at)
        if found and (found[1] or _is_no_word(text, found)) and not _rejected(text, found):
            return (found[1] or found[2]).upper()
    return None


def _is_no_word(text: str, found: re.Match[str]) -> bool:
    """Whether a letter without brackets is an option: no article, no pronoun, and a small one only before a stop."""
    letter, after = found[2], text[found.end() : found.end() + 30]
    if re.match(r"\s*(?:$|[.,;:!)\]'\"\n]|[\u4e00-\u9fff])", after):
        return True
    if letter.islower():
        return False
    return letter not in "AI" or re.match(rf"\s+(?:{BEHIND_A})\b|\s*[^\sA-Za-z0-9]", after) is not None


def _rejected(text: str, found: re.Match[str]) -> bool:
    """Whether the option is denied, asked about, or one of several."""
    return bool(
        AFTER.match(text, found.end())
        or BEFORE.search(text, max(0, found.start() - 30), found.start())
        or SEVERAL.match(text, found.end())
        or re.compile(r"[)\]]?\s*[?？]").match(text, found.end())
    )


def _bracketed_in_sentence(text: str, start: int, letters: str) -> str | None:
    """The one option in brackets in the rest of a sentence: "The answer is Paris (B)."."""
    sentence = re.split(r"[.!?](?:\s|$)|\n", text[start : start + 300].lstrip(), maxsplit=1)[0]
    return _only_bracketed(sentence, letters)


def _only_bracketed(sentence: str, letters: str) -> str | None:
    found = list(re.finditer(rf"[(\[]([{letters}{letters.lower()}])[)\]]", sentence))
    taken = {match[1].upper() for match in found if not _rejected(sentence, match)}
    return taken.pop() if len(taken) == 1 else None


def _concluded(text: str, letters: str) -> str | None:
    """What a reply comes to without stating it: its last line, "so C", or the one option in its last sentence."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (alone := _alone(lines[-1], letters)):
        return alone
    concluded = [option for cue in CONCLUDING.finditer(text) if (option := _option_at(text, cue.end(), letters))]
    if concluded:
        return concluded[-1]
    for sentence in reversed(list(_sentences(text))[-1:]):
        if option := _only_bracketed(sentence, letters):
            return option
    return None


def _sentences(text: str) -> Iterator[str]:
    ends = [0, *(match.end() for match in re.finditer(r"[.!?](?:\s|$)|\n", text)), len(text)]
    for start, end in pairwise(ends):
        if text[start:end].strip():
            yield text[start:end]
