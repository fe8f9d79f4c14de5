"""Bytes to text: which encoding a page or file is in.

The HTTP header is asked first, then the byte order mark and the page's own `meta`; each claim is checked against the
bytes, and where none holds the whole body is looked at, not only its beginning (scripts and styles come first there).
"""

import codecs
import re
import unicodedata
from collections import Counter

CJK_ENCODINGS = frozenset({"gb18030", "big5hkscs", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949", "iso2022_jp"})
SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso8859-1": "cp1252", "ascii": "cp1252",
             "shift_jis": "cp932", "euc_kr": "cp949"}  # fmt: skip
"""What pages really hold when they say the name on the left (WHATWG's encoding standard does the same)."""
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
META_CHARSET = re.compile(rb"<meta[^>]{0,500}?charset\s{0,9}=[\s\"']{0,9}([\w:.-]+)", re.IGNORECASE)
HEADER_CHARSET = re.compile(r"charset\s{0,9}=[\s\"']{0,9}([\w:.-]+)", re.IGNORECASE)
NOT_OF_PAGES = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined"})
"""Python's codecs that no browser knows: they make text of what was markup, or of nothing."""
SAMPLE_CHARACTERS = 50_000
"""Characters looked at for the plausibility of a decoding. Our choice."""
TOLERATED_ERRORS = 0.01
"""Share of broken non-ASCII bytes up to which a fitting encoding is taken and the broken bytes left out. Our choice:
pages cut in the middle of a character or with one foreign quotation mark are common."""
COMMON_CHINESE = 0.9
"""Share of GB2312's 6,763 everyday characters from which undeclared bytes pass as GB18030. Our choice: real articles
have over 0.99, another encoding read as Chinese has rare ones."""
BROKEN_UTF8 = re.compile(rb"[\xe3-\xe9][\x80-\xbf]{2}")
"""Chinese characters and kana in UTF-8."""


class UndecodableError(ValueError):
    """No encoding fits the bytes."""


def decode_html(body: bytes, content_type: str | None = None) -> tuple[str, str]:
    """The page's text and the encoding used. Raises UndecodableError when none fits."""
    claims = [*header_charset(content_type), *mark_charset(body), *META_CHARSET.findall(body)[:1]]
    return decode(body, [codec for codec in map(known_codec, claims) if codec], is_page=True)


def decode_text(body: bytes) -> tuple[str, str]:
    """The same for a plain file, which can only claim an encoding by its byte order mark."""
    return decode(body, list(mark_charset(body)), is_page=False)


def header_charset(content_type: str | None) -> list[str]:
    """The charset of an HTTP `Content-Type`, in any case and quotation."""
    return HEADER_CHARSET.findall(content_type or "")[:1]


def mark_charset(body: bytes) -> list[str]:
    """The encoding of a byte order mark."""
    return [name for mark, name in MARKS if body.startswith(mark)]


def known_codec(name: str | bytes) -> str | None:
    """Python's name of a charset, widened to the superset that pages really use; None for an unknown one."""
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    try:
        codec = codecs.lookup(text)
    except (LookupError, ValueError):
        return None
    # `base64` and the like are codecs too, but no encodings of text.
    return SUPERSETS.get(codec.name, codec.name) if codec._is_text_encoding and codec.name not in NOT_OF_PAGES else None


def decode(body: bytes, claims: list[str], *, is_page: bool) -> tuple[str, str]:
    """Text and encoding: the first claim that the bytes bear out, else UTF-8, else what the whole body looks like."""
    for codec in claims:
        # UTF-8 with characters of three bytes or more does not come about by chance: such bytes refute another claim.
        if codec not in ("utf-8", "utf-8-sig") and not codec.startswith("utf-16") and is_surely_utf8(body):
            continue
        text = strictly(body, codec)
        if text is not None and is_plausible(text):
            return text, codec
    text = strictly(body, "utf-8")
    if text is not None and is_plausible(text):
        return text, "utf-8"
    for codec in [*claims, "utf-8", *detected(body, is_page=is_page)]:
        text = leniently(body, codec)
        if text is not None and is_plausible(text):
            return text, codec
    raise UndecodableError("no encoding fits the bytes")


def strictly(body: bytes, codec: str) -> str | None:
    """The text, None where a single byte does not fit."""
    try:
        return body.decode(codec)
    except UnicodeError:
        return None


def leniently(body: bytes, codec: str) -> str | None:
    """The text without its broken bytes; None when they are more than a few."""
    try:
        text = body.decode(codec, "replace")
    except UnicodeError:
        return None
    foreign = sum(map(len, re.findall(rb"[\x80-\xff]+", body)))
    if text.count("\ufffd") > TOLERATED_ERRORS * foreign:
        return None
    return text.replace("\ufffd", "")


def is_surely_utf8(body: bytes) -> bool:
    """True when the bytes are UTF-8 and hold at least one character of three or four bytes."""
    text = strictly(body, "utf-8")
    return text is not None and re.search("[\u0800-\U0010ffff]", text) is not None


def detected(body: bytes, *, is_page: bool) -> list[str]:
    """Encodings that the non-ASCII stretches of the whole body point to, the likeliest first.

    A page may be in a Western single-byte encoding, as browsers assume; a plain file may not, since in those every
    byte means something and a broken file would pass.
    """
    from resiliparse.parse.encoding import detect_encoding

    # Only text between tags that holds foreign bytes: 20 kB of script before the article must not drown it.
    foreign = b"\n".join(piece for piece in re.split(rb"[<>\n]", body) if not piece.isascii())
    high = sum(map(len, re.findall(rb"[\x80-\xff]+", foreign)))
    if 3 * len(BROKEN_UTF8.findall(foreign)) > 0.5 * high:
        return []
    guess = known_codec(detect_encoding(foreign, max_len=0) or "")
    found = [guess] if guess in CJK_ENCODINGS - {"gb18030"} or (guess and guess != "gb18030" and is_page) else []
    if is_korean(foreign):
        found.insert(0, "cp949")
    elif is_common_chinese(foreign):
        found.insert(0 if guess == "gb18030" else len(found), "gb18030")
    return [codec for codec in found if codec and codec != "utf-8"]


def is_korean(body: bytes) -> bool:
    """True when double bytes stay in the rows of EUC-KR's syllables, B0 to C8; Chinese goes beyond them."""
    leads = [pair[0] for pair in re.findall(rb"[\xa1-\xfe][\xa1-\xfe]", body) if pair[0] >= 0xB0]
    return len(leads) > 0 and sum(lead <= 0xC8 for lead in leads) > 0.97 * len(leads)


def is_common_chinese(body: bytes) -> bool:
    """True when the bytes, read as GB18030, are everyday characters."""
    text = re.sub(r"[\x00-\x7f\ufffd]", "", body.decode("gb18030", "replace"))
    common = len(text.encode("gb2312", "ignore").decode("gb2312"))
    return len(text) > 0 and common >= COMMON_CHINESE * len(text)


def is_plausible(text: str) -> bool:
    """True when hardly any character is a control, unassigned or private one, which no real text holds."""
    counts = Counter(text[:SAMPLE_CHARACTERS])
    odd = [c for c in counts if unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r\f\v"]
    return sum(counts[c] for c in odd) <= 0.01 * counts.total()
