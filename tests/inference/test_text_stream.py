"""Stop strings: whole ones are never shown, halves of them always are, however the text is cut into tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.inference.text_stream import TextStream
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.text import normalize


class Scripted:
    """A tokenizer whose ids are the places of scripted pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.pieces[each] for each in ids)


def told(pieces: list[str] | list[bytes], stop: list[str]) -> tuple[list[str], TextStream]:
    """What comes out piece by piece, the end last, and the stream."""
    raw = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    stream = TextStream(Scripted(raw), stop)  # type: ignore[arg-type]
    return [*(stream.push(each) for each in range(len(raw))), stream.finish()], stream


STOP = ["END_OF", "\n\nUser:"]


@pytest.mark.parametrize(
    ("pieces", "shown", "stopped"),
    [
        (["a EN", "D_", "OF b"], "a ", "END_OF"),
        (["EN", "D_", "OX"], "END_OX", None),
        (["said", " it\n\nUs", "er: more"], "said it", "\n\nUser:"),
        (["one END_", "OF two END_OF"], "one ", "END_OF"),
        (["END_OF"], "", "END_OF"),
        (["x\n", "\n"], "x\n\n", None),
        (["EEND_EN", "END_", "END_OF"], "EEND_ENEND_", "END_OF"),
    ],
)
def test_a_text_ends_before_its_stop_string(pieces: list[str], shown: str, stopped: str | None) -> None:
    out, stream = told(pieces, STOP)
    assert ("".join(out), stream.text, stream.stopped) == (shown, shown, stopped)


def test_the_beginning_of_a_stop_string_comes_late_but_whole() -> None:
    out, _ = told(["EN", "D_", "OX", "!"], STOP)
    assert out == ["", "", "END_OX", "!", ""]


def test_nothing_comes_after_a_stop_string() -> None:
    out, stream = told(["a END_OF", " b", "c"], STOP)
    assert out == ["a ", "", "", ""]
    assert stream.take() == "a "
    assert stream.take() == ""


def test_characters_cut_into_bytes_are_whole_again() -> None:
    word = "能🙂".encode()
    out, _ = told([word[at : at + 1] for at in range(len(word))], ["🙂!"])
    assert [piece for piece in out if piece] == ["能", "🙂"]


def test_a_character_that_was_cut_is_flushed_once_at_the_end() -> None:
    out, _ = told(["能".encode()[:2]], [])
    assert out == ["", "\ufffd"]


TEXT = st.text(st.sampled_from("abEN\n能🙂"), max_size=30)


@given(TEXT, st.lists(st.text(st.sampled_from("abEN\n能"), min_size=1, max_size=4), max_size=3), st.data())
def test_cutting_differently_changes_no_text(text: str, stop: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=len(raw))))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    out, stream = told(pieces, stop)
    first = min((text.index(word) for word in stop if word in text), default=len(text))
    # Of overlapping stop strings that which is complete first counts, and it may begin after another's beginning.
    assert text.startswith("".join(out))
    assert not any(word in stream.text for word in stop)
    assert len(stream.text) >= first
    assert stream.stopped is not None or stream.text == text


def test_a_real_tokenizer_gives_the_text_that_decode_gives() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    vocabulary = Vocabulary(ranks=ranks, special={}, pattern=r"\s+|\S+")
    tokenizer, text = Tokenizer(vocabulary), "好的👍🏽，नमस्ते — 가각"
    stream = TextStream(tokenizer)
    ids = tokenizer.encode(text)
    assert "".join([*(stream.push(each) for each in ids), stream.finish()]) == normalize(text) == tokenizer.decode(ids)
