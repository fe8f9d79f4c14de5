"""A row's ids to text while they come: never half a character, never a stop string or a part of one.

In: ids one at a time. Out: pieces of text, which joined are the same however they were asked for.
"""

from collections.abc import Sequence

from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.stream import StreamDecoder


class TextStream:
    """Holds back what may yet become a stop string, and ends before the first one that is complete.

    stream = TextStream(tokenizer, ["\\n\\nUser:"])
    pieces = [stream.push(id) for id in ids] + [stream.finish()]
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(stop)
        self.stopped: str | None = None
        """The stop string that was found; nothing comes after it."""
        self.text = ""
        """All pieces so far, joined."""
        self._decoder = StreamDecoder(tokenizer)
        self._held = ""
        self._told = 0

    def push(self, token_id: int) -> str:
        """The text that is certain with this id, often empty."""
        return self._add(self._decoder.push(token_id))

    def finish(self) -> str:
        """What was held back, where no stop string has come; a character that was cut as `decode` writes it."""
        return self._add(self._decoder.flush(), is_last=True)

    def take(self) -> str:
        """The text since it was asked for the last time."""
        piece, self._told = self.text[self._told :], len(self.text)
        return piece

    def _add(self, piece: str, is_last: bool = False) -> str:
        if self.stopped is not None:
            return ""
        text = self._held + piece
        at, self.stopped = _first_stop(text, self.stop)
        certain = at if self.stopped is not None or is_last else len(text) - _possible_beginning(text, self.stop)
        self._held = "" if self.stopped is not None else text[certain:]
        self.text += text[:certain]
        return text[:certain]


def _first_stop(text: str, stop: Sequence[str]) -> tuple[int, str | None]:
    """Where the first stop string in `text` begins, and which; the end of the text and None where there is none."""
    found = [(text.index(word), word) for word in stop if word in text]
    return min(found, default=(len(text), None))


def _possible_beginning(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the beginning of a stop string."""
    longest = min(max(map(len, stop), default=1) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if any(word.startswith(text[-n:]) for word in stop)), 0)
