"""The main text among a page's blocks, in one cheap pass.

In: a decoded page. Out: its text, and how much of it looks like running text. resiliparse gives the visible blocks with
their links; each gets a weight, positive for running text, negative for links, labels, and the words with which pages
begin what follows an article; the stretch of largest sum is the main text (maximum subsequence segmentation, Pasternack
and Roth 2009, with rules in place of their trained classifier), less the blocks within it that are only noise.
"""

import html
import re
from dataclasses import dataclass
from typing import Any

ENOUGH_WEIGHT = 400.0
"""Below this weight the page is looked at again without resiliparse's own choice of main content. Our choice: about two
paragraphs."""
MUCH_BETTER = 1.5
"""The second look is taken where it weighs so many times as much. Our choice."""
LEAST_WEIGHT = 150.0
"""Below this weight nothing is told apart: the whole of what resiliparse takes for main content is the text. Our
choice: one paragraph."""
MUCH_DOUBT = 0.06
"""Blocks of negative weight inside the stretch, as a share of its weight, from which it is not sure. Measured: of 90
labelled pages a fifth are above it, and half of those that ours gets wrong."""
CARRIED_LINES = 3
"""Lines that a link may go over; a tag that is never closed would make the rest of the page a link."""
MOST_FROM_ONE = 400
"""Weight of one block at most, so that one long block does not outweigh a page. Our choice."""

LINK = re.compile(r"<a\b[^>]*>(.*?)(?:</a>|$)")
OPENS_LINK = re.compile(r"<a\b")
TAG = re.compile(r"</?[a-z][a-z0-9]*\b[^>]*>")
BLOCK = re.compile(r"\s*(?:<a>)?<(p|h[1-6]|li|pre|ul|ol)\b")
MARKS = re.compile(r"[。！？!?；;，,.：:”\"]")
WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
"""Characters that say about twice as much as a Latin letter."""

FOLLOWS = re.compile(
    r"""^\W{0,3}(?:
    (?:本文)?责任编辑|责编|【?编辑[：:\]】]|本文来源|分享到|分享[：:]?$|写评论|发表评论|我要评论|马上发表
    |(?:网友|用户|最新|全部|热门|精彩)?(?:评论|跟帖|跟贴|留言)(?:区|列表|\d|[(（]|仅|$)|网友评论|[为為][您你]推[荐薦]
    |相[关關](?:阅读|閱讀|新闻|新聞|文章|推荐|推薦|报道|報道|链接|話題|话题|专题|资讯|搜索)|热门(?:新闻|推荐|文章|排行|搜索|话题)
    |推荐(?:阅读|新闻|文章)|猜你喜欢|延伸阅读|阅读(?:下一篇|排行|全文)|[上下]一[篇条页]|更多(?:新闻|精彩|内容|资讯)|标签[：:\s]
    |关键[词字][：:]|扫(?:码|一扫|描)|小编最近|[与與][内內]文相[关關]|返回(?:首页|列表|顶部)|打赏|点赞|收藏|举报|加载更多
    |点击(?:进入|查看|加载)|来源[：:].{0,20}$|打印|关闭(?:窗口)?$|【?(?:免责|版权)?(?:声明|说明|保护)[】：:]|特别声明
    |版权(?:声明|所有|归)|copyright|©|comments?\b.{0,14}$|\d+\ comments?|leave\ a\ (?:comment|reply)|post\ a\ comment
    |add\ (?:a\ )?comment|related(?:\ (?:articles?|stories|content|links|topics|posts?))?\W*$|recommended
    |you\ may\ (?:also\ )?(?:like|be)|more\ (?:from|on|in|stories|news)\b.{0,30}$|most\ (?:read|popular|viewed)
    |share\ (?:this|on)\b.{0,24}$|share\W*$|tags?\W{0,2}$|tags?:|filed\ under|posted\ in|about\ the\ author
    |advertisement\W*$|sign\ up\ (?:for|to)|subscribe|newsletter|follow\ us|follow\ @|all\ rights\ reserved
    |part\ of\ complete\ coverage|read\ (?:more|next)\W*$|next\ article|previous\ article|contact\ us|terms\ of
    |privacy\ policy|comentar(?:ios)?\W*$|relacionad[oa]s|compartir|関連(?:記事|ニュース|サイト|情報|キーワード)
    |あわせて読みたい|おすすめ|コメント|관련\ ?기사|댓글|저작권|\[PR\]
    )""",
    re.VERBOSE | re.IGNORECASE,
)
"""How pages begin what stands below an article."""
NOISE = re.compile(
    r"""(?:^\W{0,3}(?:[(（]?原标题|来源|作者|记者|发布时间|发布日期|时间|浏览|点击|字号|字体|编辑|您(?:所在|现在)的?位置|当前位置|首页\s*[>»]
    |by\b|published|updated|posted|photo|image|getty|reuters\W*$|source:)
    |\d{4}\s?[-/年.]\s?\d{1,2}\s?[-/月.]\s?\d{1,2}.{0,60}$|\b\d{1,2}:\d{2}(?::\d{2})?\b.{0,24}$
    |^(?:january|february|march|april|may|june|july|august|september|october|november|december|mon|tue|wed|thu|fri|sat
    |sun)\w*\W.{0,40}\d{4}
    |仅供参考|本网登载|cookies|no\ reproduction|javascript|浏览器|(?:未经|转载).{0,12}(?:授权|许可|注明)|立场$
    )""",
    re.VERBOSE | re.IGNORECASE,
)
"""Bylines, dates, places in the site, disclaimers."""
FOLLOWS_CHARACTERS, NOISE_CHARACTERS, DROPPED_CHARACTERS = 160, 120, 60
"""Widths up to which a block can be one of these, and up to which noise is taken out of the main text: longer blocks
are text. Our choice."""
FOLLOWS_WEIGHT, NOISE_WEIGHT = -150.0, -25.0
"""What follows an article ends it unless a paragraph or two come after. Our choice."""


@dataclass(frozen=True)
class Block:
    """One visible block: its text, how many of its characters are links, its tag, and whether space was before it."""

    text: str
    linked: int
    tag: str
    is_apart: bool

    @property
    def width(self) -> int:
        return len(self.text) + len(WIDE.findall(self.text))

    @property
    def link_share(self) -> float:
        return self.linked / max(len(self.text), 1)


@dataclass(frozen=True)
class MainText:
    """What was taken for a page's main text, and how sure that is."""

    text: str
    weight: float
    """Of the stretch: its characters of running text, about."""
    doubt: float
    """What speaks against it inside the stretch, as a share of the weight."""

    @property
    def is_sure(self) -> bool:
        return self.weight >= ENOUGH_WEIGHT and self.doubt <= MUCH_DOUBT


def main_text(page: str) -> MainText:
    """The page's main text; the whole of resiliparse's choice where nothing weighs enough."""
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    blocks = blocks_of(tree, main_content=True)
    weight, start, end = heaviest(blocks)
    if weight < ENOUGH_WEIGHT:
        everything = blocks_of(tree, main_content=False)
        other, other_start, other_end = heaviest(everything)
        if other > max(MUCH_BETTER * weight, LEAST_WEIGHT):
            weight, start, end, blocks = other, other_start, other_end, everything
    if weight < LEAST_WEIGHT:
        return MainText(joined(blocks), weight, 1.0)
    stretch = blocks[start:end]
    against = -sum(value for value in map(weight_of, stretch) if value < 0)
    return MainText(joined([block for block in stretch if not is_noise(block)]), weight, against / weight)


def joined(blocks: list[Block]) -> str:
    """Blocks as text, with the blank lines that were between them."""
    return "\n".join(("\n" if block.is_apart and place else "") + block.text for place, block in enumerate(blocks))


def blocks_of(tree: Any, *, main_content: bool) -> list[Block]:
    """The visible blocks of a parsed page, in order; a `pre` is one block, its white space untouched."""
    from resiliparse.extract.html2text import extract_plain_text

    marked = extract_plain_text(
        tree, main_content=main_content, preserve_formatting="minimal_html", alt_texts=False, links=True
    )
    blocks: list[Block] = []
    # Every second piece is the inside of a `pre`.
    for place, piece in enumerate(re.split(r"<pre\b[^>]*>(.*?)</pre>", marked, flags=re.DOTALL)):
        if place % 2:
            text = html.unescape(TAG.sub("", piece)).strip("\r\n")
            blocks += [Block(text, 0, "pre", True)] if text.strip() else []
        else:
            blocks += inline_blocks(piece)
    return blocks


def inline_blocks(marked: str) -> list[Block]:
    """The blocks of text with minimal markup, a line each."""
    blocks: list[Block] = []
    is_open, carried, is_apart = False, 0, True
    for raw in marked.split("\n"):
        if not raw.strip():
            is_apart = True
            continue
        tag = BLOCK.match(raw)
        carried = carried + 1 if is_open else 0
        is_open = is_open and not tag and carried <= CARRIED_LINES
        line = f"<a>{raw}" if is_open else raw
        linked = sum(len(TAG.sub("", inside).strip()) for inside in LINK.findall(line))
        is_open = len(OPENS_LINK.findall(line)) > line.count("</a>")
        text = html.unescape(TAG.sub("", line)).strip()
        if text:
            blocks.append(Block(text, linked, tag[1] if tag else "", is_apart))
            is_apart = False
    return blocks


def heaviest(blocks: list[Block]) -> tuple[float, int, int]:
    """The stretch of largest weight: the weight, its first block, and the one behind its last."""
    best, best_start, best_end = 0.0, 0, 0
    current, start = 0.0, 0
    for place, block in enumerate(blocks):
        if current <= 0:
            current, start = 0.0, place
        current += weight_of(block)
        if current > best:
            best, best_start, best_end = current, start, place + 1
    return best, best_start, best_end


def weight_of(block: Block) -> float:
    """How much a block looks like running text (its width), or like something else (below 0)."""
    width = block.width
    if block.tag == "pre":
        return float(min(width, MOST_FROM_ONE))
    if width < FOLLOWS_CHARACTERS and FOLLOWS.match(block.text):
        return FOLLOWS_WEIGHT
    if width < NOISE_CHARACTERS and NOISE.search(block.text):
        return NOISE_WEIGHT
    if block.link_share > 0.5:
        return -(10 + 0.6 * min(width, 40))
    has_marks = MARKS.search(block.text) is not None
    if block.tag.startswith("h"):
        return -2.0 if block.link_share < 0.3 else -12.0
    if width < 40:
        return (-2.0 if has_marks else -6.0) - (2.0 if block.tag != "p" and not has_marks else 0.0)
    return min(width, MOST_FROM_ONE) * (1 - 1.5 * block.link_share) * (1.0 if has_marks else 0.3)


def is_noise(block: Block) -> bool:
    """True for a block inside the main text that is none of it: a short link, a byline, a label of the page."""
    if block.tag == "pre":
        return False
    if block.link_share > 0.5 and len(block.text) < DROPPED_CHARACTERS:
        return True
    if len(block.text) < DROPPED_CHARACTERS and NOISE.search(block.text):
        return True
    return block.width < FOLLOWS_CHARACTERS and FOLLOWS.match(block.text) is not None
