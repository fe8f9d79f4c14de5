"""Pages become text: white space of code, neighbouring blocks, character sets (known faults D01, D02, D04)."""

import ast
import time

import pytest

from danlu.corpus import extract_text
from danlu.corpus.charset import UndecodableError, decode_html, decode_text

MODES = ("fast", "balanced", "quality")
CODE = "def walk(tree):\n    for leaf in tree:\n        if leaf:\n\t        yield leaf"
TWO_FUNCTIONS = "def one():\n    return 1\n\n\ndef two():\n    return 2"
SENTENCE = "A paragraph of running text, long enough for an extractor to take it for the page's content, goes on. "
ARTICLE = "这是一篇关于炼丹炉的文章，讲述了古代匠人如何用铜和铁铸造器物，以及他们怎样控制炉火的温度。" * 8


def code_page(code: str) -> bytes:
    return (
        f"<html><body><article><p>{SENTENCE * 2}</p><p>{SENTENCE} Call <code>f</code> first.</p>"
        f"<pre>{code}</pre><p>{SENTENCE * 3}</p></article></body></html>"
    ).encode()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("code", [CODE, TWO_FUNCTIONS])
def test_code_blocks_keep_their_white_space(mode: str, wrapped: bool, code: str) -> None:
    text = extract_text(code_page(f"<code>{code}</code>" if wrapped else code), mode)
    assert code in text, f"the code block was changed in mode {mode}: {text!r}"
    ast.parse(code.replace("\t        ", "            "))
    assert any(line.endswith("Call f first.") for line in text.splitlines()), "inline code broke its sentence"


def phrases(words: int) -> list[str]:
    heads = ("Alpha one", "Beta two", "Gamma three", "Delta four", "Epsilon five")
    return [" ".join([head, *(f"{head[:2].lower()}{i}" for i in range(words))]) for head in heads]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("words", [0, 40])
@pytest.mark.parametrize("frame", ["{}", "<html><head><title>t</title></head><body>{}</body></html>"])
def test_neighbouring_blocks_are_kept_apart_and_never_repeated(mode: str, words: int, frame: str) -> None:
    a, b, c, d, e = phrases(words)
    page = frame.format(f"<main><section><p>{a}</p>{b}<div><h4>{c}</h4><p>{d}</p>{e}</div></section></main>")
    text = extract_text(page.encode(), mode)
    places = [text.find(phrase) for phrase in (a, b, c, d, e)]
    assert places == sorted(places), "the phrases are out of order"
    assert places[0] >= 0, f"a phrase is missing: {text!r}"
    assert [text.count(phrase) for phrase in (a, b, c, d, e)] == [1] * 5
    assert "twoGamma" not in text
    assert "fourEpsilon" not in text


@pytest.mark.parametrize("mode", MODES)
def test_broken_and_empty_pages_give_text_or_nothing(mode: str) -> None:
    assert extract_text(b"", mode) == ""
    assert extract_text(b"<html><body></body></html>", mode) == ""
    assert "left open" in extract_text(b"<div><p>left open <b>and <i>never </div> closed <<<>", mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tag", ["div", "b", "table><tr><td"])
def test_a_page_nested_without_end_does_not_hang(mode: str, tag: str) -> None:
    page = "<script>var x = 1;</script>" + f"<{tag}>" * 20_000 + "some &amp; text" + "</div>" * 9
    started = time.monotonic()
    assert extract_text(page.encode(), mode) == "some & text"
    assert time.monotonic() - started < 2


def test_long_lines_of_an_odd_page_are_read_in_linear_time() -> None:
    page = b"<p>caf\xe9 " + b"x" * 2_000_000 + b" " * 2_000_000 + b"</p>"
    started = time.monotonic()
    decode_html(page)
    assert time.monotonic() - started < 2


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown extractor"):
        extract_text(b"<p>x</p>", "best")


def chinese_page(declaration: str) -> str:
    script = "<script>" + "var x = 'aaaa bbbb cccc';\n" * 800 + "</script>"
    return f"<html><head>{declaration}{script}</head><body><article><p>{ARTICLE}</p></article></body></html>"


@pytest.mark.parametrize("declaration", ['<meta charset="gb2312">', "<meta charset=gb2312>", ""])
def test_old_chinese_pages_equal_their_utf8_twins(declaration: str) -> None:
    page = chinese_page(declaration)
    text, encoding = decode_html(page.encode("gb2312"))
    assert encoding == "gb18030", "the encoding is not the superset of GB2312"
    assert text == page
    twin = page.replace("gb2312", "utf-8").encode()
    assert extract_text(page.encode("gb2312")) == extract_text(twin)


@pytest.mark.parametrize("header", ['text/html; Charset="GBK"', "TEXT/HTML;CHARSET=gbk", "text/html; charset='Gbk'"])
def test_the_http_header_is_read_in_any_spelling(header: str) -> None:
    assert decode_html(f"<p>{ARTICLE}</p>".encode("gbk"), header) == (f"<p>{ARTICLE}</p>", "gb18030")


def test_a_false_claim_gives_way_to_the_bytes() -> None:
    page = f'<meta charset="iso-8859-1"><p>{ARTICLE}</p>'
    assert decode_html(page.encode(), "text/html; charset=gb2312") == (page, "utf-8")


def test_a_short_western_page_keeps_its_accents() -> None:
    page = '<meta charset="iso-8859-1"><p>Caf\u00e9 and na\u00efve.</p>'
    assert decode_html(page.encode("iso-8859-1")) == (page, "cp1252")


@pytest.mark.parametrize("encoding", ["big5", "shift_jis", "gb18030", "euc_kr"])
def test_undeclared_asian_text_is_recognised(encoding: str) -> None:
    texts = {
        "big5": "我們在臺灣讀書寫字，學習繁體中文。" * 20,
        "shift_jis": "これは日本語の文章です。漢字も仮名もあります。" * 20,
    }
    texts |= {"gb18030": ARTICLE, "euc_kr": "이것은 한국어 문장입니다. 글자가 여러 개 있습니다. " * 20}
    assert decode_text(texts[encoding].encode(encoding))[0] == texts[encoding]


def test_a_mark_is_obeyed_and_one_cut_character_forgiven() -> None:
    assert decode_text("\ufeff你好，世界".encode()) == ("你好，世界", "utf-8-sig")
    assert decode_text("你好 hello".encode("utf-16"))[0] == "你好 hello"
    text, encoding = decode_html(ARTICLE.encode()[:-1])
    assert (text, encoding) == (ARTICLE[:-1], "utf-8")


@pytest.mark.parametrize(
    "body",
    [b"plain words \xff\xfe and \xfa more words", bytes(range(256)) * 20, b"\xff\xfe" + bytes(range(255, 0, -1)) * 9],
)
def test_bytes_that_are_no_text_are_refused(body: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode_text(body)


def test_codecs_that_no_browser_knows_are_not_obeyed() -> None:
    for name in ("utf-7", "idna", "unicode_escape", "punycode"):
        body = f'<meta charset="{name}"><p>some words of the page +2AA-</p>'.encode()
        assert decode_html(body) == (body.decode(), "utf-8")


def test_blanks_without_end_in_a_declaration_are_read_in_linear_time() -> None:
    started = time.monotonic()
    decode_html(b"<meta charset=" + b" " * 300_000)
    assert time.monotonic() - started < 2
