"""The door `danlu.generate`: a prompt or a conversation in, text or an iterator of pieces out."""

from collections.abc import Generator, Iterator, Mapping, Sequence

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.model.transformer import Transformer
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation

Prompt = str | Sequence[Mapping[str, str]]


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """A text to continue, or messages to answer in ChatML. Text never becomes control tokens."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    ids, _ = encode_conversation(tokenizer, [dict(message) for message in prompt], add_generation_prompt=True)
    return ids


def stream_row(engine: Engine, row: int) -> Generator[str, None, None]:
    """Pieces of a row's continuation as they come, never half a character. The row leaves the engine when it has ended
    or the caller closes the iterator; the bytes of a cut character come out only at the row's own end."""
    sequence = engine.rows[row]
    text = sequence.text
    assert text is not None, "an engine without a tokenizer has no text"
    try:
        while True:
            if piece := text.take():
                yield piece
            if sequence.finish_reason:
                break
            engine.step()
    finally:
        engine.remove(row)


def stream_pieces(model: Transformer, tokenizer: Tokenizer, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
    """Pieces of the continuation as they come, never half a character; ends at an end token or a limit."""
    ids = encode_prompt(tokenizer, prompt)
    engine = Engine.for_text(model, tokenizer, sampling, max_length=len(ids) + sampling.max_new_tokens)
    row = engine.admit(ids)
    yield from stream_row(engine, row)


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt_or_messages: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    top_p: float = 0.9,
    top_k: int = 0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    stream: bool = False,
) -> str | Iterator[str]:
    """Continue a text (str) or answer a conversation (messages with `role` and `content`).

    Returns the new text, or an iterator of its pieces with `stream=True`; it ends before any of the texts in `stop`.
    Temperature 0 is greedy. Raises UserError for an empty prompt or one longer than the model reads, ValueError for
    impossible sampling values or an unknown role.
    """
    sampling = SamplingConfig(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=tuple(stop)
    )
    pieces = stream_pieces(model, tokenizer, prompt_or_messages, sampling)
    return pieces if stream else "".join(pieces)
