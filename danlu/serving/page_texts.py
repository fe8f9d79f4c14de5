"""The page's words in English and in Chinese."""

from dataclasses import dataclass

from danlu.run.errors import UserError
from danlu.serving.batcher import Busy, Closed


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Everything that the page says in one language; words in braces are filled in."""

    subtitle: str
    empty: str
    ask: str
    send: str
    stop: str
    again: str
    fresh: str
    settings: str
    system: str
    system_hint: str
    temperature: str
    top_p: str
    top_k: str
    max_tokens: str
    seed: str
    stops: str
    waiting: str
    left_out: str
    stopped: str
    cut: str
    full: str
    too_long: str
    busy: str
    closed: str
    failed: str
    bad_setting: str

    def of_error(self, error: Exception) -> str:
        """One line about a reply that did not come."""
        if isinstance(error, Busy):
            return self.busy
        if isinstance(error, Closed):
            return self.closed
        return f"{self.failed} {error.what}" if isinstance(error, UserError) else self.failed


ENGLISH = Texts(
    subtitle="Runs on this server; what you write is sent nowhere else.",
    empty="How can I help?",
    ask="Write a message…",
    send="Send",
    stop="Stop",
    again="Answer again",
    fresh="New chat",
    settings="Settings",
    system="System message",
    system_hint="None, as in training",
    temperature="Temperature: 0 always takes the likeliest token",
    top_p="Top-p: share of probability that is drawn from",
    top_k="Top-k: number of tokens drawn from; 0 for all",
    max_tokens="Longest answer, in tokens",
    seed="Seed: the same number, the same answer; empty for chance",
    stops="End the answer before these texts, one a line; \\n is a line break",
    waiting="Waiting: others are being answered.",
    left_out="The model reads {limit} tokens: the oldest {count} questions and answers are left out of what it sees.",
    stopped="Stopped. What was written stays in the conversation.",
    cut="Cut after {count} tokens; the settings can allow more.",
    full="Cut: the model reads {limit} tokens, its answer included.",
    too_long="Too long: the message and the system message must fit into {limit} tokens with the answer. "
    "Nothing was sent.",
    busy="Too many people are waiting. Nothing was sent; try again in a moment.",
    closed="The server is shutting down.",
    failed="The answer failed.",
    bad_setting="This setting cannot be used: {what}",
)

CHINESE = Texts(
    subtitle="在这台服务器上运行，内容不会发往别处。",
    empty="有什么可以帮你？",
    ask="输入消息……",
    send="发送",
    stop="停止",
    again="重新回答",
    fresh="新对话",
    settings="设置",
    system="系统提示",
    system_hint="默认没有，与训练时一致",
    temperature="温度：0 表示总取最可能的词元",
    top_p="Top-p：参与抽样的概率总和",
    top_k="Top-k：参与抽样的词元数，0 为不限",
    max_tokens="回答最多的词元数",
    seed="随机种子：相同则回答相同，留空则随机",
    stops="遇到这些文字就结束回答，每行一个，\\n 表示换行",
    waiting="正在回答其他人，请稍候。",
    left_out="模型最多读 {limit} 个词元：最早的 {count} 轮对话已不在其中。",
    stopped="已停止，写出的部分保留在对话中。",
    cut="已到 {count} 个词元的上限，可在设置中调大。",
    full="回答中断：提问和回答合计最多 {limit} 个词元。",
    too_long="太长：消息、系统提示和回答合计最多 {limit} 个词元。消息未发送。",
    busy="排队的人太多，消息未发送，请稍后再试。",
    closed="服务器正在关闭。",
    failed="回答失败。",
    bad_setting="这个设置不可用：{what}",
)

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def texts_for(language: str | None) -> Texts:
    """The words of a language; English where there are none."""
    return LANGUAGES.get(language or "", ENGLISH)
