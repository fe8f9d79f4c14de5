"""A page as numbered lines of text, so that a label can say which of them are its main text without repeating them.

In: a page's bytes. Out: every line of text that a reader may see, in document order, one for each block or `br`.
Labels (`labels/extraction.json`) hold ranges of these numbers; the pages themselves come from the package index.
"""

import re

from lxml import etree, html

from danlu.corpus.charset import decode_html

HIDDEN = {"script", "style", "noscript", "template", "svg", "iframe", "head", "select", "textarea", "button"}
INLINE = {
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img",
    "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt",
    "u", "var", "wbr",
}  # fmt: skip


def page_lines(body: bytes) -> list[str]:
    """The page's lines, white space joined, empty ones left out."""
    page = re.sub(r"^\s*<\?xml[^>]*\?>", "", decode_html(body)[0].replace("\x00", ""))
    tree = html.document_fromstring(page, parser=html.HTMLParser(huge_tree=True))
    pieces: list[str] = []
    walk(tree, pieces)
    lines = (" ".join(line.split()) for line in "".join(pieces).split("\n"))
    return [line for line in lines if line]


def walk(element: etree._Element, pieces: list[str]) -> None:
    """Add the text below an element; what is not inline stands on lines of its own."""
    if isinstance(element.tag, str) and element.tag not in HIDDEN:
        edge = "" if element.tag in INLINE else "\n"
        pieces.append(edge)
        pieces.append((element.text or "").replace("\n", " "))
        for child in element:
            walk(child, pieces)
        pieces.append(edge)
    pieces.append((element.tail or "").replace("\n", " "))
