"""What a reward model learns from a file: each pair once an epoch, read together by prompt (R08, K10)."""

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from danlu.conversations.comparisons import Comparison
from danlu.conversations.records import Message
from danlu.model.branches import group_length
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation
from danlu.training.comparison_data import (
    EncodedComparisons,
    PairBatch,
    PairBatches,
    PairSteps,
    PromptGroup,
    encode_comparisons,
)

LENGTH = 64

Pair = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The ids of a prompt, of the chosen response, of the rejected one."""


def compare(prompt: str | Sequence[tuple[str, str]], chosen: str, rejected: str) -> Comparison:
    turns = [("user", prompt)] if isinstance(prompt, str) else prompt
    return Comparison(tuple(Message(role, content) for role, content in turns), chosen, rejected)


def prompt_ids(tokenizer: Tokenizer, comparison: Comparison) -> list[int]:
    messages = [{"role": message.role, "content": message.content} for message in comparison.messages]
    return encode_conversation(tokenizer, messages, add_generation_prompt=True)[0]


def expected_pair(tokenizer: Tokenizer, comparison: Comparison) -> Pair:
    """What a comparison must be read as."""
    sides = ((*tokenizer.encode(reply), tokenizer.im_end_id) for reply in (comparison.chosen, comparison.rejected))
    return (tuple(prompt_ids(tokenizer, comparison)), *sides)  # type: ignore[return-value]


def group_pairs(encoded: EncodedComparisons) -> list[Pair]:
    return [
        (tuple(group.prompt), tuple(group.responses[better]), tuple(group.responses[worse]))
        for group in encoded.groups
        for better, worse in group.pairs
    ]


# --- encoding and grouping ---


def test_comparisons_are_grouped_by_prompt_and_a_shared_response_is_there_once(tiny_tokenizer: Tokenizer) -> None:
    comparisons = [
        compare("one", "a", "b"),
        compare("two", "x", "y"),
        compare("one", "a", "c"),
        compare("one", "b", "c"),
        compare("two", "y", "z"),
    ]
    encoded = encode_comparisons(comparisons, tiny_tokenizer, LENGTH)
    first, second = encoded.groups
    end = tiny_tokenizer.im_end_id
    assert first.responses == [[*tiny_tokenizer.encode(reply), end] for reply in "abc"]
    assert first.pairs == [(0, 1), (0, 2), (1, 2)]
    assert second.responses == [[*tiny_tokenizer.encode(reply), end] for reply in "xyz"]
    assert second.pairs == [(0, 1), (1, 2)]
    assert first.group == (first.prompt, first.responses)
    assert encoded.kept == [comparisons[number] for number in (0, 2, 3, 1, 4)], "in the order of the groups' pairs"
    assert (encoded.num_pairs, encoded.left_out.counts, encoded.left_out.examples) == (5, {}, [])


def test_a_pair_is_read_as_the_prompt_in_chatml_and_replies_that_end(tiny_tokenizer: Tokenizer) -> None:
    comparisons = [
        compare("one", "the river", "cold"),
        compare([("system", "be kind"), ("user", "one")], "the river", "cold"),
        compare([("user", "one"), ("assistant", "far"), ("user", "你好")], "今天", "the <|im_end|>"),
    ]
    encoded = encode_comparisons(comparisons, tiny_tokenizer, LENGTH)
    assert len(encoded.groups) == 3, "another system message or another history is another prompt"
    assert group_pairs(encoded) == [expected_pair(tiny_tokenizer, comparison) for comparison in comparisons]
    for _, chosen, rejected in group_pairs(encoded):
        for response in (chosen, rejected):
            assert response.count(tiny_tokenizer.im_end_id) == 1, "text has become a control token"


def test_replies_of_the_same_ids_are_dropped_and_counted(tiny_tokenizer: Tokenizer) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    comparisons = [
        compare("one", composed, decomposed),
        compare("one", "a", "b"),
        compare("two", decomposed, composed),
    ]
    encoded = encode_comparisons(comparisons, tiny_tokenizer, LENGTH)
    assert encoded.kept == comparisons[1:2]
    assert encoded.left_out.counts == {"both answers have the same ids": 2}
    assert encoded.left_out.examples == ["'one': both answers have the same ids"]


def prompt_of(tokenizer: Tokenizer, length: int) -> str:
    """A prompt that takes so many ids; every digit is one."""
    around = len(prompt_ids(tokenizer, compare("", "", "")))
    prompt = "1" * (length - around)
    assert len(prompt_ids(tokenizer, compare(prompt, "", ""))) == length
    return prompt


def test_answers_that_would_be_cut_away_are_dropped_and_counted(tiny_tokenizer: Tokenizer) -> None:
    """R08: a prompt of 30 and a limit of 32 leave nothing, or one token, of either answer."""
    prompt = prompt_of(tiny_tokenizer, 30)
    comparisons = [
        compare(prompt, "12345", "12367"),  # differ at the fourth token
        compare(prompt, "5", "6"),  # differ in the last token that would be kept
        compare("1", "5", "6"),
    ]
    encoded = encode_comparisons(comparisons, tiny_tokenizer, 32)
    reason = "longer than 32 tokens with both answers"
    assert encoded.kept == comparisons[2:]
    assert encoded.left_out.counts == {reason: 2}
    assert encoded.left_out.examples == [f"{prompt!r}: {reason}"]
    assert encode_comparisons(comparisons[:2], tiny_tokenizer, 32).groups == []


def test_the_limit_is_of_the_prompt_with_both_answers(tiny_tokenizer: Tokenizer) -> None:
    comparison = compare(prompt_of(tiny_tokenizer, 30), "123", "45")
    length = 30 + 4 + 3
    assert encode_comparisons([comparison], tiny_tokenizer, length).kept == [comparison]
    assert encode_comparisons([comparison], tiny_tokenizer, length - 1).kept == []


def many_answers(count: int) -> list[Comparison]:
    """All pairs of so many answers to one prompt."""
    replies = [f"{number:03}" for number in range(count)]
    return [compare("one", better, worse) for better, worse in itertools.combinations(replies, 2)]


def test_a_prompt_with_too_many_answers_for_a_row_is_read_pair_by_pair(tiny_tokenizer: Tokenizer) -> None:
    few, many = many_answers(3), many_answers(20)
    short = len(prompt_ids(tiny_tokenizer, few[0]))
    limit = short + 4 * 4
    assert len(encode_comparisons(few, tiny_tokenizer, limit).groups) == 1
    others = [compare("two", "a", "b"), compare("two", "a", "c")]
    encoded = encode_comparisons([others[0], *many, others[1]], tiny_tokenizer, limit)
    assert len(encoded.groups) == 1 + len(many)
    assert encoded.kept == [*others, *many]
    assert group_pairs(encoded) == [expected_pair(tiny_tokenizer, comparison) for comparison in encoded.kept]
    assert max(group_length(group.group) for group in encoded.groups) <= limit
    assert encoded.left_out.counts == {}


# --- steps ---


def some_groups(counts: Sequence[int]) -> list[PromptGroup]:
    """Group g has so many pairs, its first answer against each other; every id tells its group and response."""
    groups = []
    for number, count in enumerate(counts):
        responses = [[100 + number] * (1 + index % 3) + [200 + index] for index in range(count + 1)]
        groups.append(
            PromptGroup(
                prompt=[10 + number] * (1 + number % 5),
                responses=responses,
                pairs=[(0, index) if index % 2 else (index, 0) for index in range(1, count + 1)],
            )
        )
    return groups


COUNTS = [1, 2, 1, 3, 1, 1, 2, 4, 1, 1, 2, 1]
GROUPS = some_groups(COUNTS)


def make_steps(groups: Sequence[PromptGroup] = GROUPS, **changes: int) -> PairSteps:
    values = {"batch_size": 4, "sequence_length": 24, "rows_at_once": 2, "num_steps": 0, "epochs": 1, "seed": 1}
    return PairSteps(groups, **{**values, **changes})  # type: ignore[arg-type]


def pairs_in(batch: PairBatch) -> list[Pair]:
    """The pairs of a batch, found again from its tensors."""
    rows = batch.rows
    width = rows.input_ids.shape[1]
    responses = [tuple(ids.tolist()) for ids in rows.tokens.split(rows.lengths.tolist())]
    prompts = []
    for end in rows.ends.tolist():
        row, column = divmod(end, width)
        mine = (rows.document_ids[row] == rows.document_ids[row, column]) & (rows.branch_ids[row] == 0)
        prompts.append(tuple(rows.input_ids[row, mine].tolist()))
    pairs = []
    for better, worse in zip(batch.chosen.tolist(), batch.rejected.tolist(), strict=True):
        assert prompts[better] == prompts[worse], "a pair of two prompts"
        pairs.append((prompts[better], responses[better], responses[worse]))
    return pairs


def pairs_of_step(step: Sequence[PairBatch]) -> list[Pair]:
    return [pair for batch in step for pair in pairs_in(batch)]


def all_pairs(groups: Sequence[PromptGroup]) -> Counter[Pair]:
    return Counter(group_pairs(EncodedComparisons(groups=list(groups))))


@pytest.mark.parametrize("rows_at_once", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [4, 7, 1000])
def test_an_epoch_holds_every_pair_once(batch_size: int, rows_at_once: int) -> None:
    steps = make_steps(batch_size=batch_size, rows_at_once=rows_at_once, epochs=3)
    found = Counter(pair for index in range(len(steps)) for pair in pairs_of_step(steps[index]))
    assert found == Counter({pair: 3 * count for pair, count in all_pairs(GROUPS).items()})
    per_epoch = len(steps) // 3
    first = Counter(pair for index in range(per_epoch) for pair in pairs_of_step(steps[index]))
    if batch_size == 1000:
        assert first == all_pairs(GROUPS), "an epoch in one step"


def test_a_step_holds_at_most_a_batch_of_pairs_and_whole_prompts() -> None:
    steps = make_steps(epochs=5)
    for index in range(len(steps)):
        prompts = Counter(prompt for prompt, _, _ in pairs_of_step(steps[index]))
        assert sum(prompts.values()) <= 4
        for prompt, count in prompts.items():
            assert count == COUNTS[prompt[0] - 10], "the pairs of one prompt have come apart"
    assert sum(len(pairs_of_step(steps[index])) for index in range(len(steps))) == 5 * sum(COUNTS)
    assert len(steps) < 5 * 1.6 * sum(COUNTS) / 4, "steps are hardly filled"


def test_a_prompt_with_more_pairs_than_a_batch_is_a_step_by_itself() -> None:
    steps = make_steps([*GROUPS, *some_groups([9])[:1]], sequence_length=64)
    sizes = sorted(len(pairs_of_step(steps[index])) for index in range(len(steps)))
    assert sizes[-1] == 9
    assert sizes[-2] <= 4


def test_the_order_depends_on_the_seed_alone_and_each_epoch_has_its_own() -> None:
    first, again, other = (make_steps(epochs=2, batch_size=1, seed=seed).steps for seed in (1, 1, 2))
    assert first == again == make_steps(epochs=2, batch_size=1, rows_at_once=7, sequence_length=40).steps
    assert first != other
    flat = [number for step in first for number in step]
    assert sorted(flat[:12]) == sorted(flat[12:]) == list(range(12))
    assert flat[:12] != flat[12:]


@pytest.mark.parametrize("num_steps", [1, 5, 23])
def test_so_many_steps_go_on_over_epochs(num_steps: int) -> None:
    steps, by_epochs = make_steps(num_steps=num_steps), make_steps(epochs=10)
    assert len(steps) == num_steps
    assert steps.steps == by_epochs.steps[:num_steps]


def test_micro_batches_have_one_shape_and_unused_rows_hold_nothing() -> None:
    steps = make_steps(batch_size=1000, rows_at_once=4)
    (step,) = [steps[index] for index in range(len(steps))]
    assert len(step) > 1
    assert {tuple(batch.input_ids.shape) for batch in step} == {(4, 24)}
    assert sum(batch.num_targets for batch in step) == sum(COUNTS)
    used = [bool(row.any()) for batch in step for row in batch.rows.document_ids]
    assert used == sorted(used, reverse=True), "only the last rows may be unused"
    assert len(used) - sum(used) < 4


def test_reference_log_probabilities_go_with_their_responses() -> None:
    """Each is made from the response's own ids, so that a wrong one shows."""
    reference = [[float(sum(response)) for response in group.responses] for group in GROUPS]
    steps = PairSteps(
        GROUPS, batch_size=6, sequence_length=24, rows_at_once=2, num_steps=0, epochs=1, seed=1,
        reference_logprobs=reference,
    )  # fmt: skip
    for index in range(len(steps)):
        for batch in steps[index]:
            sums = [float(ids.sum()) for ids in batch.rows.tokens.split(batch.rows.lengths.tolist())]
            assert batch.reference_logprobs is not None
            assert batch.reference_logprobs.tolist() == sums
            moved = batch.to(torch.device("cpu"))
            assert moved.reference_logprobs is not None
            assert moved.reference_logprobs.equal(batch.reference_logprobs)
    assert make_steps()[0][0].to(torch.device("cpu")).reference_logprobs is None


def taken(batches: PairBatches, count: int | None = None) -> list[list[Pair]]:
    try:
        return [pairs_of_step(step) for step in itertools.islice(batches, count)]
    finally:
        batches.close()


@pytest.mark.parametrize("done", [0, 1, 6, 11])
def test_after_a_restart_the_steps_go_on_where_they_were(done: int) -> None:
    """Also with steps already made ahead: they do not count as taken."""
    whole = taken(PairBatches(make_steps(num_steps=11)))
    assert len(whole) == 11
    before = PairBatches(make_steps(num_steps=11))
    for _ in range(done):
        next(before)
    state = before.state()
    before.close()
    after = PairBatches(make_steps(num_steps=11))
    after.restore(state)
    assert taken(after) == whole[done:]
