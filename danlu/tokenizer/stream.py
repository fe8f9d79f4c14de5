"""Ids to text while they come, never half a character.

In: ids one at a time. Out: pieces that joined equal `Tokenizer.decode` of all of them.
"""

import codecs

from danlu.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Holds back the bytes of a character that is not complete yet.

    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(id) for id in ids] + [decoder.flush()]
    """

    def __init__(self, tokenizer: Tokenizer, errors: str = "replace") -> None:
        self.tokenizer = tokenizer
        # Python's incremental decoder finds the same invalid bytes as `bytes.decode` does on the whole.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, token_id: int) -> str:
        """The text that became complete with this id, often empty. Raises ValueError for an id that does not exist."""
        return self.decoder.decode(self.tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """What is left at the end: empty, or what `decode` makes of a character that was cut. Ready for a new text."""
        rest = self.decoder.decode(b"", final=True)
        self.decoder.reset()
        return rest
