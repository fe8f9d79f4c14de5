"""Whether a reply is right: each generated conversation carries a `check`, and a program judges by it.

| kind | fields | right is |
|---|---|---|
| `exact`, `answer` | `answer` | the same text |
| `copy` | `text` | the same text |
| `count` | `word`, `count` | the number in digits |
| `sum` | `terms` | the sum in digits |
| `language` | `language`, `answer` | a reply in the script of that language, and the same text |
| `refusal` | `category` | one of the fixed refusals, of whichever category |

Texts are compared after NFC and without white space at the ends.
"""

import unicodedata

from danlu.conversations.records import Conversation
from danlu.conversations.skills.safety import ALL_REFUSALS


def check_reply(conversation: Conversation, reply: str) -> bool:
    """Whether `reply` is a right last reply of `conversation`. ValueError when the conversation has no check."""
    check = conversation.check
    if check is None:
        raise ValueError("this conversation has no `check`; only those that Danlu generates can be judged")
    given = normalised(reply)
    match check["kind"]:
        case "exact" | "answer":
            return given == normalised(check["answer"])
        case "copy":
            return given == normalised(check["text"])
        case "count":
            return given == str(check["count"])
        case "sum":
            return given == str(sum(check["terms"]))
        case "language":
            return script(given) == check["language"] and given == normalised(check["answer"])
        case "refusal":
            return is_refusal(reply)
    raise ValueError(f"unknown kind of check {check['kind']!r}")


def is_refusal(reply: str) -> bool:
    """Whether the reply is one of the fixed refusals; on harmless look-alikes this counts as a false refusal."""
    return normalised(reply) in ALL_REFUSALS


def normalised(text: str) -> str:
    """NFC, without white space at the ends."""
    return unicodedata.normalize("NFC", text).strip()


def script(text: str) -> str:
    """The language of a text by its letters: `zh` for Han only, `en` for Latin only, `mixed`, or `none`."""
    han = any("\u4e00" <= letter <= "\u9fff" for letter in text)
    latin = any(letter.isascii() and letter.isalpha() for letter in text)
    if han and latin:
        return "mixed"
    return "zh" if han else "en" if latin else "none"
