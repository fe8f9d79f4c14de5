"""The loader: every token of an epoch once, an order that the seed alone decides, and the same rows after a restart."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.documents import Document
from danlu.tokenizer.shards import TokenShards, write_shards
from danlu.training.loader import Batches, ConversationRows, StreamRows
from danlu.training.step import MicroBatch

LENGTH = 16


@pytest.fixture
def shards(tiny_shards: Path) -> TokenShards:
    return TokenShards(tiny_shards / "train")


def epoch_labels(rows: StreamRows, epoch: int) -> np.ndarray:
    first = epoch * rows.rows_per_epoch
    return np.concatenate([rows[index]["labels"] for index in range(first, first + rows.rows_per_epoch)])


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_teaches_every_token_once_but_the_first_and_a_part_row(shards: TokenShards, epoch: int) -> None:
    rows = StreamRows(shards, LENGTH, None, 2, seed=1)
    assert len(rows) == 2 * rows.rows_per_epoch
    left_out = Counter(np.asarray(shards.tokens[:]).tolist())
    left_out.subtract(epoch_labels(rows, epoch).tolist())
    assert min(left_out.values()) >= 0, "a token was given twice"
    assert sum(left_out.values()) <= LENGTH, "more than a part row was left out"


def test_rows_are_whole_documents_joined_and_cut(shards: TokenShards) -> None:
    rows = StreamRows(shards, LENGTH, None, 1, seed=1)
    _, _, order = rows.epoch_order(0)
    in_stream = [rows[int(index)] for index in np.argsort(order)]
    for row in in_stream:
        assert (row["input_ids"][1:] == row["labels"][:-1]).all(), "a label is not the token that follows"
        assert row["input_ids"].dtype == row["labels"].dtype == np.int64
    for row, following in itertools.pairwise(in_stream):
        assert row["labels"][-1] == following["input_ids"][0], "neighbours share one token"
    stream = np.concatenate([row["input_ids"] for row in in_stream]).tolist()
    known = {tuple(shards.document(index).tolist()) for index in range(len(shards))}
    ends = [at for at, token in enumerate(stream) if token == shards.end_of_text_id]
    documents = [tuple(stream[begin + 1 : end + 1]) for begin, end in zip([-1, *ends], ends, strict=False)]
    assert len(documents) > 50
    assert len(set(documents)) == len(documents)
    assert set(documents) <= known


def test_rows_are_shuffled_so_that_a_batch_is_not_one_document(shards: TokenShards) -> None:
    rows = StreamRows(shards, LENGTH, None, 2, seed=1)
    for epoch in (0, 1):
        _, _, order = rows.epoch_order(epoch)
        assert sorted(order.tolist()) == list(range(rows.rows_per_epoch))
        neighbours = sum(after - before == 1 for before, after in itertools.pairwise(order))
        assert neighbours < 0.1 * len(order)


def test_the_seed_decides_the_order_and_each_epoch_has_its_own(shards: TokenShards) -> None:
    first, again, other = (StreamRows(shards, LENGTH, None, 2, seed=seed) for seed in (1, 1, 2))
    assert (epoch_labels(first, 0) == epoch_labels(again, 0)).all()
    assert (epoch_labels(first, 0) != epoch_labels(other, 0)).any()
    assert (epoch_labels(first, 0) != epoch_labels(first, 1)).any()


def test_more_rows_than_an_epoch_go_on_into_the_next(shards: TokenShards) -> None:
    endless, two = StreamRows(shards, LENGTH, 10_000, 1, seed=1), StreamRows(shards, LENGTH, None, 2, seed=1)
    assert len(endless) == 10_000
    place = two.rows_per_epoch + 3
    assert (endless[place]["labels"] == two[place]["labels"]).all()


def steps_of(batches: Batches) -> list[list[MicroBatch]]:
    try:
        return list(batches)
    finally:
        batches.close()


def same(first: list[list[MicroBatch]], second: list[list[MicroBatch]]) -> bool:
    return len(first) == len(second) and all(
        len(one) == len(other)
        and all(
            (a.input_ids == b.input_ids).all() and (a.labels == b.labels).all() for a, b in zip(one, other, strict=True)
        )
        for one, other in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("taken", [0, 1, 7, 20])
def test_after_a_restart_the_steps_go_on_where_they_were(shards: TokenShards, taken: int) -> None:
    """Also with steps already fetched ahead: they do not count as taken."""

    def make() -> Batches:
        return Batches(StreamRows(shards, LENGTH, 21 * 6, 1, seed=4), batch_size=6, micro_batch_size=2)

    whole = steps_of(make())
    assert len(whole) == 21
    before = make()
    steps = iter(before)
    for _ in range(taken):
        next(steps)
    state = before.state()
    before.close()
    after = make()
    after.restore(state)
    assert same(steps_of(after), whole[taken:])


def test_a_step_holds_its_rows_in_micro_batches_of_one_shape(shards: TokenShards) -> None:
    rows = StreamRows(shards, LENGTH, 10, 1, seed=1)
    batches = Batches(rows, batch_size=8, micro_batch_size=4)
    assert batches.num_steps == 2
    whole = steps_of(batches)
    assert [[tuple(batch.labels.shape) for batch in step] for step in whole] == [[(4, LENGTH)] * 2, [(4, LENGTH)]]
    assert [sum(batch.num_targets for batch in step) for step in whole] == [8 * LENGTH, 2 * LENGTH]
    for index, row in enumerate(whole[0][0].labels):
        assert (row.numpy() == rows[index]["labels"]).all()


def test_data_too_small_for_a_row_are_refused(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards([Document("1", "你好", "s", "zh", 1.0)], tiny_tokenizer, tmp_path / "s")
    shards = TokenShards(tmp_path / "s")
    count = len(shards.tokens)
    assert len(StreamRows(shards, count - 1, None, 1, seed=1)) == 1, "a row of n inputs needs n + 1 tokens"
    with pytest.raises(UserError, match=f"{count} tokens are too few for one row of {count}") as error:
        StreamRows(shards, count, None, 1, seed=1)
    assert str(tmp_path / "s") in str(error.value)


def test_an_empty_split_is_refused(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards([], tiny_tokenizer, tmp_path / "s")
    with pytest.raises(UserError, match="0 tokens are too few"):
        StreamRows(TokenShards(tmp_path / "s"), LENGTH, None, 1, seed=1)


def encoded(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Conversation k is 3 to 12 tokens, all of them 100 + k."""
    return [
        (np.full(3 + index % 10, 100 + index), np.array([False] + [True] * (2 + index % 10))) for index in range(count)
    ]


@pytest.mark.parametrize("packing", [False, True])
def test_an_epoch_of_conversations_holds_each_once_and_the_next_has_another_order(packing: bool) -> None:
    rows = ConversationRows(encoded(30), 24, None, 3, packing, seed=1)
    flat = [index for row in rows.rows for index in row]
    epochs = [flat[30 * epoch : 30 * (epoch + 1)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert rows.rows == ConversationRows(encoded(30), 24, None, 3, packing, seed=1).rows
    for index in range(len(rows)):
        assert len(rows[index]["input_ids"]) == 24
        held = {token - 100 for token in rows[index]["input_ids"].tolist() if token}
        assert held == set(rows.rows[index]), "a conversation was lost or cut off in packing"
