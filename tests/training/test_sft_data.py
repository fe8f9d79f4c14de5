"""What fine-tuning learns from a file: exactly the assistant's words and their end (T05, T06, T07, K08, K10)."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.loader import Batches, ConversationRows
from danlu.training.loss import IGNORE_INDEX
from danlu.training.sft import cut_to_length, encode_for_training

Turns = Sequence[tuple[str, str]]
Write = Callable[[Path, Sequence[Turns]], Path]

SYSTEM_AND_TWO_TURNS: Turns = (
    ("system", "be kind"),
    ("user", "what is the river"),
    ("assistant", "cold and clear"),
    ("user", "and 你好"),
    ("assistant", "世界，今天。"),
)
WITH_A_TOOL: Turns = (
    ("user", "is it far"),
    ("assistant", "ask(far)"),
    ("tool", "24 miles"),
    ("assistant", "it is far"),
    ("user", "thanks"),
)
SHORT: Turns = (("user", "hi"), ("assistant", "ok"))
LONG_PROMPT: Turns = (("user", "the river was cold and clear " * 20), ("assistant", "ok then"))


def assistant_words(conversations: Sequence[Turns]) -> list[str]:
    return sorted(content for turns in conversations for role, content in turns if role == "assistant")


def rows_of(path: Path, tokenizer: Tokenizer, packing: bool, limit: int = 160) -> ConversationRows:
    encoded, _ = encode_for_training(path, tokenizer, limit)
    return ConversationRows(encoded, limit, None, 1, packing, seed=1)


def learnt_pieces(rows: ConversationRows, tokenizer: Tokenizer) -> list[str]:
    """The texts that are learnt, each up to its end token; every label is checked to be what follows."""
    pieces: list[str] = []
    for index in range(len(rows)):
        row = rows[index]
        labels, inputs = row["labels"], row["input_ids"]
        learnt = labels != IGNORE_INDEX
        inside = learnt[:-1] & (row["document_ids"][1:] == row["document_ids"][:-1])
        assert (labels[:-1][inside] == inputs[1:][inside]).all(), "a label is not the token that follows"
        piece: list[int] = []
        for label in labels[learnt].tolist():
            piece.append(label)
            if label == tokenizer.im_end_id:
                pieces.append(tokenizer.decode(piece[:-1]))
                piece = []
        assert not piece, "a reply is learnt without its end token"
    return sorted(pieces)


@pytest.mark.parametrize("packing", [False, True])
def test_what_is_learnt_is_each_reply_and_its_end_token(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path, packing: bool
) -> None:
    conversations = [SYSTEM_AND_TWO_TURNS, WITH_A_TOOL, SHORT]
    path = write_conversations(tmp_path / "c.jsonl", conversations)
    rows = rows_of(path, tiny_tokenizer, packing)
    assert len(rows) == (2 if packing else 3), "the test wants a row of several conversations when packed"
    assert learnt_pieces(rows, tiny_tokenizer) == assistant_words(conversations)


def test_packed_and_separate_rows_learn_the_same_tokens(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    path = write_conversations(tmp_path / "c.jsonl", [SYSTEM_AND_TWO_TURNS, WITH_A_TOOL, SHORT] * 5)
    counts = []
    for packing in (False, True):
        rows = rows_of(path, tiny_tokenizer, packing)
        counts.append(Counter(label for i in range(len(rows)) for label in rows[i]["labels"].tolist() if label >= 0))
    assert counts[0] == counts[1]


def test_the_labels_that_reach_the_loss_are_those_of_the_rows(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    """A batch of rows of different lengths: padding is never learnt, the true ends always are."""
    conversations = [SYSTEM_AND_TWO_TURNS, WITH_A_TOOL, SHORT]
    rows = rows_of(write_conversations(tmp_path / "c.jsonl", conversations), tiny_tokenizer, packing=False)
    batches = Batches(rows, batch_size=4, micro_batch_size=4)
    (micro_batch,) = next(iter(batches))
    batches.close()
    assert micro_batch.labels.shape == (4, 160)
    ends = int((micro_batch.labels == tiny_tokenizer.im_end_id).sum())
    assert ends == len(assistant_words(conversations)) == 5
    expected = sum(len(tiny_tokenizer.encode(text)) + 1 for text in assistant_words(conversations))
    assert micro_batch.num_targets == expected
    last = micro_batch.labels[-1]
    assert bool((last == IGNORE_INDEX).all()), "the row that fills up the micro-batch must teach nothing"


def test_positions_begin_anew_in_each_packed_conversation(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    rows = rows_of(write_conversations(tmp_path / "c.jsonl", [SHORT] * 4), tiny_tokenizer, packing=True)
    row = rows[0]
    for number in (1, 2, 3, 4):
        positions = row["position_ids"][row["document_ids"] == number]
        assert positions.tolist() == list(range(len(positions)))
        assert len(positions) > 4


def test_a_conversation_without_room_for_a_reply_is_counted_and_named(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    path = write_conversations(tmp_path / "c.jsonl", [SHORT, LONG_PROMPT, SHORT, LONG_PROMPT])
    encoded, left_out = encode_for_training(path, tiny_tokenizer, limit=32)
    assert len(encoded) == 2
    assert left_out.counts == {"no reply ends within the limit of 32 tokens": 2}
    assert left_out.examples == [f"{path}, conversation 2: no reply ends within the limit of 32 tokens"]


def test_a_malformed_record_is_counted_and_those_after_it_keep_their_numbers(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    path = write_conversations(tmp_path / "c.jsonl", [SHORT, (("user", "hi"),), SHORT, LONG_PROMPT])
    encoded, left_out = encode_for_training(path, tiny_tokenizer, limit=32)
    assert len(encoded) == 2
    assert sum(left_out.counts.values()) == 2
    assert sum(number for reason, number in left_out.counts.items() if reason.startswith("malformed record: ")) == 1
    assert any("line 2" in example for example in left_out.examples)
    assert any("conversation 4:" in example for example in left_out.examples)


def test_a_file_with_nothing_to_learn_is_refused(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    path = write_conversations(tmp_path / "c.jsonl", [LONG_PROMPT] * 3)
    with pytest.raises(UserError, match="no conversation to learn from") as error:
        encode_for_training(path, tiny_tokenizer, limit=32)
    assert "\n" not in str(error.value)
    assert "no reply ends within the limit of 32 tokens" in str(error.value)
    assert str(path) in str(error.value)


def test_a_conversation_is_cut_after_its_last_whole_reply() -> None:
    ids = np.arange(20)
    mask = np.zeros(20, bool)
    mask[4:8] = mask[12:18] = True
    for limit in (17, 18, 40):
        kept = cut_to_length(ids, mask, limit)
        assert kept is not None
        assert kept[0].tolist() == list(range(18)), "17 inputs are enough to predict the end of the second reply"
    for limit in (7, 16):
        kept = cut_to_length(ids, mask, limit)
        assert kept is not None
        assert kept[0].tolist() == list(range(8))
        assert kept[1].tolist() == mask[:8].tolist()
    assert cut_to_length(ids, mask, 6) is None


def test_a_row_of_exactly_the_limit_is_kept_whole(
    tiny_tokenizer: Tokenizer, write_conversations: Write, tmp_path: Path
) -> None:
    path = write_conversations(tmp_path / "c.jsonl", [SHORT])
    encoded, _ = encode_for_training(path, tiny_tokenizer, limit=96)
    inputs = len(encoded[0][0]) - 1
    rows = rows_of(path, tiny_tokenizer, packing=False, limit=inputs)
    assert learnt_pieces(rows, tiny_tokenizer) == ["ok"]
    with pytest.raises(UserError):
        rows_of(path, tiny_tokenizer, packing=False, limit=inputs - 1)
