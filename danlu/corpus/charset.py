"""Bytes to text: which encoding a page or file is in.

The HTTP header is asked first, then the byte order mark and the page's own `meta`; each claim is checked against the
bytes, and where none holds the whole body is looked at, not only its beginning (scripts and styles come first there).
"""

import codecs
import re

CJK_ENCODINGS = frozenset({"gb18030", "big5hkscs", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949", "iso2022_jp"})
SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso8859-1": "cp1252", "ascii": "cp1252",
             "shift_jis": "cp932", "euc_kr": "cp949"}  # fmt: skip
"""What pages really hold when they say the name on the left (WHATWG's encoding standard does the same)."""
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
META_CHARSET = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE)
HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE)
TOLERATED_ERRORS = 1e-3
"""Share of broken bytes up to which an otherwise fitting encoding is taken and the broken bytes left out. Our choice:
pages cut in the middle of a character or with one foreign quotation mark are common."""


class UndecodableError(ValueError):
    """No encoding fits the bytes."""


def decode_html(body: bytes, content_type: str | None = None) -> tuple[str, str]:
    """The page's text and the encoding used. Raises UndecodableError when none fits."""
    claims = [*header_charset(content_type), *mark_charset(body), *META_CHARSET.findall(body)[:1]]
    return decode(body, [codec for codec in map(known_codec, claims) if codec])


def decode_text(body: bytes) -> tuple[str, str]:
    """The same for a plain file, which can only claim an encoding by its byte order mark."""
    return decode(body, list(mark_charset(body)))


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
        codec = codecs.lookup(text).name
    except (LookupError, ValueError):
        return None
    return SUPERSETS.get(codec, codec)


def decode(body: bytes, claims: list[str]) -> tuple[str, str]:
    """Text and encoding: the first claim that the bytes bear out, else UTF-8, else what the whole body looks like."""
    for codec in claims:
        # UTF-8 with characters of three bytes or more does not come about by chance: such bytes refute another claim.
        if codec not in ("utf-8", "utf-8-sig") and not codec.startswith("utf-16") and is_surely_utf8(body):
            continue
        if (text := strictly(body, codec)) is not None:
            return text, codec
    if (text := strictly(body, "utf-8")) is not None:
        return text, "utf-8"
    for codec in [*claims, "utf-8", *detected(body)]:
        if (text := leniently(body, codec)) is not None:
            return text, codec
    raise UndecodableError("no encoding fits the bytes")


def strictly(body: bytes, codec: str) -> str | None:
    try:
        return body.decode(codec)
    except (UnicodeDecodeError, UnicodeError):
        return None


def leniently(body: bytes, codec: str) -> str | None:
    """The text without its few broken bytes; None when they are many, or where any byte fits and proves nothing."""
    text = body.decode(codec, "replace")
    broken = text.count("\ufffd")
    foreign = len(re.findall(rb"[\x80-\xff]", body)) + 1
    if broken > TOLERATED_ERRORS * foreign + (0 if broken > 1 else 1) or looks_binary(text):
        return None
    return text.replace("\ufffd", "")


def is_surely_utf8(body: bytes) -> bool:
    """True when the bytes are UTF-8 and hold at least one character of three or four bytes."""
    text = strictly(body, "utf-8")
    return text is not None and re.search("[\u0800-\U0010ffff]", text) is not None


def detected(body: bytes) -> list[str]:
    """Encodings that the non-ASCII stretches of the whole body point to, the likeliest first."""
    from resiliparse.parse.encoding import detect_encoding

    # Only text between tags that holds foreign bytes: 20 kB of script before the article must not drown it.
    foreign = b"\n".join(re.findall(rb"[^<>\n]*[\x80-\xff][^<>\n]*", body))
    if len(re.findall("[\u4e00-\u9fff]".encode("utf-8")[:1] + rb"[\x80-\xbf]{2}", foreign)) * 6 > len(foreign):
        return []  # broken UTF-8: three-byte characters all over
    guess = known_codec(detect_encoding(foreign, max_len=0) or "")
    return [codec for codec in (guess, "gb18030") if codec and codec != "utf-8"]


def looks_binary(text: str) -> bool:
    """True when control characters say that this was never text."""
    sample = text[:100_000]
    return len(re.findall("[\x00-\x08\x0e-\x1f\x7f]", sample)) > 0.01 * len(sample)
