"""What counts as text: one policy for surrogates and one normal form, for every door.

In: any Python string. Out: the string that is encoded, measured and trained on.
"""

import re
import unicodedata

import regex

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_MARKS = regex.compile(r"[^\p{ccc=0}]{30,}")
"""Combining marks in a row. `unicodedata` sorts them by insertion: of 160 KB that takes five seconds, of 4 MB an hour,
in which no other thread runs. Runs of 30, the longest that real text has (Unicode's Stream-Safe Format), cost nothing.
"""


def well_formed(text: str) -> str:
    """`text` as valid Unicode: a surrogate pair becomes its character, a lone half becomes U+FFFD.

    Such strings come from JSON escapes (`"\\ud83d"`) and from terminals; UTF-8 cannot hold them. tiktoken
    does the same inside some of its methods and raises in others, so it is done here, before any of them.
    """
    if not _SURROGATE.search(text):
        return text
    joined = _PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _SURROGATE.sub("\ufffd", joined)


def normalize(text: str) -> str:
    """The text that is encoded: well formed and in NFC, as Qwen v1 does before encoding.

    NFC follows the interpreter's Unicode tables. `tokenizer.json` follows those of the `tokenizers` package,
    which may be newer: the two can differ only for characters that the older table does not know.
    """
    return unicodedata.normalize("NFC", _LONG_MARKS.sub(_in_canonical_order, well_formed(text)))


def _in_canonical_order(run: "regex.Match[str]") -> str:
    """A run of marks, taken apart and sorted by class as NFC would."""
    apart = "".join(unicodedata.normalize("NFD", mark) for mark in run.group())
    return "".join(sorted(apart, key=unicodedata.combining))
