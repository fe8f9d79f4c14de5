"""One continuation as it grows: its text, and the log-probabilities of the tokens that the text is made of."""

from typing import NamedTuple

from danlu.inference.engine import FinishReason
from danlu.serving.batcher import Piece
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.stream import StreamDecoder


class ScoredToken(NamedTuple):
    """A token that was drawn, its log-probability, the best ones at its place, and where its text begins."""

    token_id: int
    logprob: float
    best: list[tuple[int, float]]
    offset: int


class Continuation:
    """Takes pieces; `text`, `tokens`, `finish_reason` and `num_tokens` are what came so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.text, self.num_tokens = "", 0
        self.finish_reason: FinishReason | None = None
        self.tokens: list[ScoredToken] = []
        self._control_ids = tokenizer.control_ids
        self._decoder = StreamDecoder(tokenizer)
        self._length = 0
        self._held: list[ScoredToken] = []

    @property
    def ended_by(self) -> FinishReason:
        """`finish_reason` of one that has ended."""
        assert self.finish_reason is not None
        return self.finish_reason

    def add(self, piece: Piece) -> list[ScoredToken]:
        """Take a piece; the tokens that became certain with it.

        Tokens wait as their text does: those of a stop string never come. A token that a stop string begins in the
        middle of is there whole.
        """
        self.text += piece.text
        self.finish_reason, self.num_tokens = piece.finish_reason, piece.num_tokens
        for token_id, alternatives in zip(piece.token_ids, piece.alternatives, strict=False):
            best = list(zip(alternatives.ids, alternatives.logprobs, strict=True))
            self._held.append(ScoredToken(token_id, alternatives.logprob, best, self._length))
            if token_id not in self._control_ids:
                self._length += len(self._decoder.push(token_id))
        has_all = piece.finish_reason is not None and piece.stop_string is None
        certain = [token for token in self._held if has_all or token.offset < len(self.text)]
        self._held = self._held[len(certain) :]
        self.tokens += certain
        return certain


class TokenNames:
    """How answers write single tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control_ids = tokenizer.control_ids

    def bytes_of(self, token_id: int) -> list[int] | None:
        """The exact bytes; None for a control token, which is no text."""
        return None if token_id in self._control_ids else list(self._tokenizer.decode_bytes([token_id]))

    def text_of(self, token_id: int, mark: str = "") -> str:
        """The text; bytes that are not whole characters as OpenAI writes them, `\\xe8\\x83` after `mark`."""
        raw = self._tokenizer.decode_bytes([token_id])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return mark + "".join(f"\\x{byte:02x}" for byte in raw)
