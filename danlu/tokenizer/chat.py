"""ChatML: conversations to ids and a loss mask, to text, and back (recipe, section 7).

In: messages `{"role": …, "content": …}`. Out: `input_ids` and `loss_mask` of the same length, 1 where the
loss counts. Control ids are put in by code; role, line break and content are encoded apart, as in the
published Qwen v1 code.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from danlu.tokenizer.special import IM_END, IM_START

if TYPE_CHECKING:
    import jinja2

    from danlu.tokenizer.bpe import Tokenizer

Message = Mapping[str, str]

ROLES = ("system", "user", "assistant", "tool")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role: ' ~ message['role']) }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The text of a conversation, exported in `tokenizer_config.json`. No system turn is added that was not given."""


def encode_conversation(
    tokenizer: "Tokenizer", messages: Sequence[Message], add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of a conversation; the mask is 1 on the assistant's content and its `<|im_end|>`.

    Position t of the mask speaks of `input_ids[t]` as a target, before any shift. Raises ValueError for an
    unknown role or a content that is not text.
    """
    line_break = tokenizer.encode("\n")
    input_ids: list[int] = []
    loss_mask: list[int] = []
    for index, message in enumerate(messages):
        role, content = _fields(message, index)
        head = [tokenizer.im_start_id, *tokenizer.encode(role), *line_break]
        body = [*tokenizer.encode(content), tokenizer.im_end_id]
        input_ids += [*head, *body, *line_break]
        counts = int(role == "assistant")
        loss_mask += [0] * len(head) + [counts] * len(body) + [0] * len(line_break)
    if add_generation_prompt:
        prompt = [tokenizer.im_start_id, *tokenizer.encode("assistant"), *line_break]
        input_ids += prompt
        loss_mask += [0] * len(prompt)
    return input_ids, loss_mask


def _fields(message: Message, index: int) -> tuple[str, str]:
    """Role and content, checked. Raises ValueError naming the message."""
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"message {index}: unknown role {role!r}; known are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"message {index}: the content is {type(content).__name__}, not text")
    return role, content


@cache
def _template() -> "jinja2.Template":
    import jinja2
    import jinja2.sandbox

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    # The same environment as in transformers, so that the exported template gives the same text there.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(CHAT_TEMPLATE)


def render_conversation(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The conversation as the exported template writes it. Raises ValueError as `encode_conversation` does.

    For people and for comparison: encoding this text with special tokens allowed would let a message's own
    `<|im_end|>` close its turn, and a content that begins or ends with white space may get other ids.
    """
    for index, message in enumerate(messages):
        _fields(message, index)
    return _template().render(messages=list(messages), add_generation_prompt=add_generation_prompt)


def parse_conversation(tokenizer: "Tokenizer", ids: Sequence[int]) -> list[dict[str, str]]:
    """The messages that `encode_conversation` encoded, contents byte for byte (in NFC).

    A last turn without `<|im_end|>` is given back when it holds something, so a generation prompt alone is
    not. Raises ValueError for ids that are not ChatML.
    """
    messages = []
    turns = _split(list(ids), tokenizer.im_start_id)
    if turns[0]:
        raise ValueError(f"the ids do not begin with {IM_START}")
    for number, turn in enumerate(turns[1:]):
        body, *rest = _split(turn, tokenizer.im_end_id)
        if len(rest) > 1 or (rest and tokenizer.decode(rest[0]).strip("\n")):
            raise ValueError(f"turn {number}: text between {IM_END} and the next turn")
        if not rest and number + 2 < len(turns):
            raise ValueError(f"turn {number} is not closed by {IM_END}")
        role, line_break, content = tokenizer.decode(body).partition("\n")
        if role not in ROLES or not line_break:
            raise ValueError(f"turn {number}: {role!r} is not a role on a line of its own")
        if rest or content:
            messages.append({"role": role, "content": content})
    return messages


def _split(ids: list[int], separator: int) -> list[list[int]]:
    """`ids` between the separators; one part more than there are separators."""
    parts: list[list[int]] = [[]]
    for token_id in ids:
        if token_id == separator:
            parts.append([])
        else:
            parts[-1].append(token_id)
    return parts
