"""Streaming: never half a character, and in the end the same text as `decode` (K03)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stream import StreamDecoder

TEXT = "好的👍🏽，नमस्ते — 가각"


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(token_id) for token_id in ids), decoder.flush()]


def test_pieces_join_to_the_text_and_hold_no_half_character(tokenizer: Tokenizer) -> None:
    parts = pieces(tokenizer, tokenizer.encode(TEXT))
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)
    assert parts[-1] == ""


def test_a_stream_cut_inside_the_emoji_flushes_what_decode_gives(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for length in range(len(ids) + 1):
        parts = pieces(tokenizer, ids[:length])
        assert "".join(parts) == tokenizer.decode(ids[:length])
        assert not any("\ufffd" in part for part in parts[:-1])


@given(st.lists(st.integers(0, 599), max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_ids_even_invalid_bytes_join_to_what_decode_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_after_a_flush_the_decoder_begins_anew(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    decoder.push(0xF0)
    assert decoder.flush() == "\ufffd"
    assert "".join([decoder.push(token_id) for token_id in tokenizer.encode("好")]) == "好"
