"""HTML to the page's main text.

In: a page's bytes. Out: its text, `""` when it has none. Three modes: `fast` (the stretch of running text among
resiliparse's blocks, main_text.py), `quality` (what of it trafilatura finds too), `balanced` (the second only where the
first is unsure). In every mode the white space of
`pre` blocks is kept as it is, inline code stays in its sentence, and neighbouring blocks never run together.
"""

import html
import logging
import re
from typing import Any

from danlu.corpus.charset import decode_html
from danlu.corpus.config import EXTRACTORS
from danlu.corpus.main_text import LEAST_WEIGHT, MainText, main_text

LEAST_AGREEMENT = 0.5
"""Share of our main text that the careful extractor must have found for its omissions to count. Our choice."""
COMPARED_CHARACTERS = 40
"""Beginning of a block by which it is found again."""
SIGNS = re.compile(r"\W+")
CONTAINER_TAGS = "article aside blockquote body details div fieldset figure footer header main section"
BLOCK_TAGS = "address dd dl dt figcaption form h1 h2 h3 h4 h5 h6 hr li nav ol p pre table tbody td tfoot th thead tr ul"
CONTAINERS = frozenset(CONTAINER_TAGS.split())
BLOCKS = CONTAINERS | frozenset(BLOCK_TAGS.split())
SKIPPED = frozenset(["script", "style", "noscript", "template", "svg", "iframe"])
INVISIBLE = re.compile(r"<(script|style|svg)\b.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
NESTABLE = (
    *CONTAINERS,
    "address",
    "center",
    "dl",
    "form",
    "nav",
    "ol",
    "table",
    "ul",
    "a",
    "b",
    "em",
    "font",
    "i",
    "span",
)
TAG = re.compile(rf"<(/?)(?:{'|'.join((*NESTABLE, 'strong', 'small', 'big', 'u', 's', 'pre'))})\b", re.IGNORECASE)
"""Elements that need a closing tag and may be nested without end."""
DEEPEST_NESTING = 512
"""Deeper pages are not given to the extractors, whose time grows with the square of the depth (measured: 27 s for
20,000 nested elements). 512 is where Chromium stops nesting too; real pages have 20 to 60."""
MARKER = "danlupreformatted{number:04d}block"
MARKER_PATTERN = re.compile(r"danlupreformatted(\d{4})block")


def extract_text(html: bytes, mode: str = "balanced", content_type: str | None = None) -> str:
    """The main text of a page; `content_type` is its HTTP header. Raises ValueError for bytes that are no text."""
    return extract(decode_html(html, content_type)[0], mode)


def extract(page: str, mode: str) -> str:
    """The main text of a decoded page."""
    if mode not in EXTRACTORS:
        raise ValueError(f"unknown extractor `{mode}`, known: {', '.join(EXTRACTORS)}")
    if not page.strip():
        return ""
    if is_too_deep(page):
        return flat(page)
    if mode == "quality":
        return agreed(page, main_text(page))
    found = main_text(page)
    return agreed(page, found) if mode == "balanced" and not found.is_sure else tidy(found.text)


HEAD_CHARACTERS = 200_000
"""Beginning of a page in which its title and the like are looked for. Our choice."""
TITLE = re.compile(r"<title\b[^>]{0,200}>([^<]{1,500})", re.IGNORECASE)
META = re.compile(r"<(?:meta|link|time)\b[^>]{1,2000}>", re.IGNORECASE)
ATTRIBUTE = re.compile(r"""([a-z:-]{1,30})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""", re.IGNORECASE)
JSON_DATE = re.compile(r'"datePublished"\s*:\s*"([^"]{4,40})"')
TITLES = ("og:title", "twitter:title")
DATES = ("article:published_time", "datepublished", "publishdate", "pubdate", "date", "og:published_time", "dc.date")


def page_facts(page: str) -> dict[str, str]:
    """What a page says of itself: `title`, `date` (as it is written there) and `url`; empty where it says nothing."""
    head = page[:HEAD_CHARACTERS]
    named: dict[str, str] = {}
    for tag in META.findall(head):
        values = {name.lower(): html.unescape("".join(value)).strip() for name, *value in ATTRIBUTE.findall(tag)}
        name = values.get("property") or values.get("name") or values.get("itemprop") or values.get("rel") or ""
        value = values.get("content") or values.get("href") or ""
        if tag[:5].lower() == "<time" and "datetime" in values:
            name, value = "time", values["datetime"]
        named.setdefault(name.lower(), value)
    title = TITLE.search(head)
    written = JSON_DATE.search(head)
    dates = [named.get(name) for name in DATES] + [written[1] if written else None, named.get("time")]
    names = [html.unescape(" ".join(title[1].split())) if title else None, *(named.get(name) for name in TITLES)]
    return {
        "title": next(filter(None, names), ""),
        "date": next(filter(None, dates), ""),
        "url": next((url for url in (named.get("canonical"), named.get("og:url")) if url and "://" in url), ""),
    }


def is_too_deep(page: str) -> bool:
    """Whether a page is nested too deep to be read as a tree. Tags within scripts are told apart only where it seems
    so: taking scripts out takes longer than the rest."""
    return nesting(page) > DEEPEST_NESTING and nesting(INVISIBLE.sub("", page)) > DEEPEST_NESTING


def nesting(page: str) -> int:
    """How deep the page's elements are nested, by counting the tags that need a closing one."""
    depth = deepest = 0
    for closing in TAG.findall(page):
        depth = max(0, depth - 1) if closing else depth + 1
        deepest = max(deepest, depth)
    return deepest


def flat(page: str) -> str:
    """All text of a page that is no tree any sane program wrote: its tags taken out, scripts and styles with them."""
    text = re.sub(r"<[^<>]*>", "\n", INVISIBLE.sub(" ", page))
    lines = (line.strip() for line in html.unescape(text).split("\n"))
    return tidy("\n".join(filter(None, lines)))


def left_out(page: str) -> str:
    """What a page shows besides its main text: navigation, lists of links, imprint; one block a line."""
    from resiliparse.extract.html2text import extract_plain_text

    if is_too_deep(page):
        return ""
    main = set(extract(page, "balanced").split("\n"))
    lines = tidy(extract_plain_text(page, main_content=False, preserve_formatting=True, alt_texts=False)).split("\n")
    return "\n".join(line for line in lines if line.strip() and line not in main)


def agreed(page: str, ours: MainText) -> str:
    """The blocks of our main text that trafilatura finds too; ours where it finds hardly any of them, trafilatura's
    where ours weighs next to nothing. One result replaces the other, they are never added up."""
    theirs = careful(page)
    if not theirs or ours.weight < LEAST_WEIGHT:
        return theirs or tidy(ours.text)
    found = SIGNS.sub("", theirs)
    kept = [line for line in ours.text.split("\n") if SIGNS.sub("", line)[:COMPARED_CHARACTERS] in found]
    if sum(map(len, kept)) < LEAST_AGREEMENT * len(ours.text):
        return tidy(ours.text)
    return tidy("\n".join(kept))


def careful(page: str) -> str:
    """Main text by trafilatura, on a tree whose `pre` blocks and loose text are made safe first; `""` if none."""
    import trafilatura
    from lxml import etree

    # A page without a main text is no error here: it is counted where the text turns out empty.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    tree = trafilatura.load_html(page)
    if tree is None:
        return ""
    kept = set_aside_preformatted(tree)
    for element in list(tree.iter(etree.Element)):
        if element.tag in CONTAINERS:
            wrap_loose_text(element)
    text = trafilatura.extract(tree, include_comments=False, include_tables=True, deduplicate=False, fast=False)
    if not text:
        return ""
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n")))

    def restored(found: re.Match[str]) -> str:
        number = int(found[1])
        return f"\n{kept[number]}\n" if number < len(kept) else found[0]

    return tidy(MARKER_PATTERN.sub(restored, text))


def set_aside_preformatted(tree: Any) -> list[str]:
    """Replace each `pre` by a paragraph with a mark; the texts, white space untouched."""
    from lxml import etree

    kept: list[str] = []
    for element in list(tree.iter("pre")):
        if any(parent.tag == "pre" for parent in element.iterancestors()):
            continue
        for line_break in element.iter("br"):
            line_break.tail = "\n" + (line_break.tail or "")
        paragraph = etree.Element("p")
        paragraph.text = MARKER.format(number=len(kept))
        paragraph.tail = element.tail
        kept.append("".join(element.itertext()).strip("\r\n"))
        element.getparent().replace(element, paragraph)
    return kept


def wrap_loose_text(container: Any) -> None:
    """Give text that stands between block elements its own paragraph, inline elements included."""
    from lxml import etree

    children = list(container)
    if not any(child.tag in BLOCKS for child in children):
        return
    run = etree.Element("p")
    run.text, container.text = container.text, None
    pieces: list[Any] = []

    def close() -> None:
        nonlocal run
        if "".join(run.itertext()).strip():
            pieces.append(run)
        run = etree.Element("p")

    for child in children:
        if child.tag in BLOCKS or child.tag in SKIPPED or not isinstance(child.tag, str):
            close()
            run.text, child.tail = child.tail, None
            pieces.append(child)
        else:
            run.append(child)
    close()
    container[:] = pieces


def tidy(text: str) -> str:
    """No carriage returns, no NUL, no blank edges; the first line keeps its indentation, which may be code's."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").strip("\n").rstrip()
