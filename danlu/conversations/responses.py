"""What a model said to the demo's own prompts, and the comparisons that follow from it.

In: JSON lines, `{"messages": [the prompt's turns], "responses": [{"text": "…", "ended": true}, …]}`, several responses
to each prompt of some conversations. Out: pairs of a right reply and a wrong one that the model gave itself. A response
that did not end by itself is neither right nor wrong and is only counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from danlu.conversations.checkers import check_reply, normalised
from danlu.conversations.comparisons import Comparison
from danlu.conversations.records import Conversation, Message, our_turns, read_records, validate_turns
from danlu.run.errors import UserError


@dataclass(frozen=True)
class Response:
    """One response of a model, and whether it ended by itself."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Responses:
    """What a model said to one prompt."""

    prompt: tuple[Message, ...]
    responses: tuple[Response, ...]


@dataclass(frozen=True)
class JudgedResponses:
    """The responses to one conversation's prompt, judged by its checker."""

    conversation: Conversation
    verdicts: tuple[str, ...]
    """Of each response: `right`, `wrong`, `empty` or `unfinished`."""
    right: tuple[str, ...]
    """Different right replies, that of the conversation first."""
    wrong: tuple[str, ...]
    """Different wrong replies."""


def read_responses(path: Path) -> Iterator[Responses]:
    """The records of a file in order; a malformed one raises UserError with file and line."""
    example = 'A line looks like {"messages": [{"role": "user", …}], "responses": [{"text": "…", "ended": true}]}'
    return read_records(path, lambda record: [_responses_from(record)], None, "responses", example)


def _responses_from(record: Any) -> Responses:
    if not isinstance(record, dict) or "messages" not in record or not isinstance(record.get("responses"), list):
        raise ValueError("a record must be an object with `messages` and a list `responses`")
    messages = our_turns(record)
    validate_turns(messages)
    return Responses(tuple(messages), tuple(_response(response) for response in record["responses"]))


def _response(response: Any) -> Response:
    if not isinstance(response, dict):
        raise ValueError("a response must be an object with `text` and `ended`")
    text, ended = response.get("text"), response.get("ended")
    if not isinstance(text, str) or not isinstance(ended, bool):
        raise ValueError("a response must have a `text` and say whether it `ended`, true or false")
    return Response(text, ended)


def judge_responses(path: Path, conversations: Sequence[Conversation]) -> Iterator[JudgedResponses]:
    """The responses of a file beside the conversations that they answer; UserError when one answers none of these."""
    by_prompt = {item.prompt: item for item in conversations}
    for number, record in enumerate(read_responses(path), start=1):
        if record.prompt not in by_prompt:
            raise UserError(
                f"the prompt of record {number} is none of the training conversations",
                where=path,
                mend="Sample the responses again, from the conversations that are compared",
            )
        yield _judged(by_prompt[record.prompt], record.responses)


def _judged(item: Conversation, responses: Sequence[Response]) -> JudgedResponses:
    verdicts = [_verdict(item, response) for response in responses]
    texts: dict[str, dict[str, str]] = {"right": {normalised(item.reply): item.reply}, "wrong": {}}
    for response, verdict in zip(responses, verdicts, strict=True):
        if verdict in texts:
            texts[verdict].setdefault(normalised(response.text), response.text)
    return JudgedResponses(item, tuple(verdicts), tuple(texts["right"].values()), tuple(texts["wrong"].values()))


def _verdict(item: Conversation, response: Response) -> str:
    if not response.ended:
        return "unfinished"
    if not response.text.strip():
        return "empty"
    return "right" if check_reply(item, response.text) else "wrong"


def sampled_pairs(source: Random, judged: JudgedResponses) -> list[Comparison]:
    """Each different wrong response beside a right reply."""
    item = judged.conversation
    return [
        Comparison(item.prompt, source.choice(judged.right), wrong, "sampled", item.skill, item.language)
        for wrong in judged.wrong
    ]


def count_verdicts(judged: Sequence[JudgedResponses]) -> dict[str, dict[str, int]]:
    """How many responses were right, wrong, empty and unfinished, by skill."""
    counts: dict[str, Counter[str]] = {}
    for responses in judged:
        counts.setdefault(responses.conversation.skill or "", Counter()).update(responses.verdicts)
    return {skill: dict(sorted(counts[skill].items())) for skill in sorted(counts)}
