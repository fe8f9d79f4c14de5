"""The demo's comparisons: right beside wrong, apart from their tests, as many and as noisy as asked for."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from typing import Any

import pytest

from danlu.conversations.checkers import check_reply, script
from danlu.conversations.compare import KIND_SHARES, make_comparisons
from danlu.conversations.comparisons import Comparison, read_comparisons
from danlu.conversations.config import ComparisonsConfig
from danlu.conversations.prompt_split import prompt_families, prompt_text
from danlu.conversations.records import Conversation, Message, read_conversations
from danlu.conversations.responses import judge_responses, read_responses, sampled_pairs
from danlu.conversations.skills.safety import REFUSALS
from danlu.conversations.wrong_replies import LONGEST_SLIP
from danlu.run.errors import UserError

UNFINISHED = "and so on and so on"
WRONG = ("I do not know", "  Hm?\n")


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def response_row(source: Random, item: Conversation) -> dict[str, Any]:
    """Four responses: half of them right, the others wrong, empty or unfinished."""
    kinds = {item.reply: 4, f" {item.reply}\n": 1, WRONG[0]: 2, WRONG[1]: 1, "": 1, UNFINISHED: 1}
    texts = source.choices(list(kinds), list(kinds.values()), k=4)
    return {
        **item.to_json(),
        "messages": [{"role": turn.role, "content": turn.content} for turn in item.prompt],
        "responses": [{"text": text, "ended": text != UNFINISHED} for text in texts],
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, draw_conversations: Callable[..., list[Conversation]]) -> Path:
    """A folder with `conversations/`, and `responses.jsonl` to the first 300 training prompts."""
    folder = tmp_path_factory.mktemp("comparisons")
    (folder / "conversations").mkdir()
    train, test = draw_conversations(1, 80), draw_conversations(2, 12)
    prompts = {item.prompt for item in train}
    write(folder / "conversations/alignment.jsonl", (item.to_json() for item in train))
    new = [item for item in test if item.prompt not in prompts]
    # One test prompt is near a training prompt, as happens with greetings.
    shouted = (Message("user", f"{train[-1].prompt[-1].content}!!"),)
    new.append(Conversation((*train[-1].prompt[:-1], *shouted, train[-1].messages[-1]), *labels(train[-1])))
    write(folder / "conversations/test.jsonl", (item.to_json() for item in new))
    unseen = [item for item in draw_conversations(3, 12) if item.skill == "copy_one"]
    renamed = [Conversation(item.messages, f"{item.skill}_unseen", item.language, item.check) for item in unseen]
    write(folder / "conversations/unseen.jsonl", (item.to_json() for item in renamed))
    source = Random(5)
    write(folder / "responses.jsonl", (response_row(source, item) for item in train[:300]))
    return folder


def labels(item: Conversation) -> tuple[Any, Any, Any]:
    return item.skill, item.language, item.check


def config(inputs: Path, out: Path, **values: Any) -> ComparisonsConfig:
    defaults = {"responses": inputs / "responses.jsonl", "num_pmp": 500, "num_reward": 400, "sampled_test_share": 0.1}
    return ComparisonsConfig(conversations=inputs / "conversations", out=out, **{**defaults, **values})


Sets = dict[str, list[Comparison]]


@pytest.fixture(scope="module")
def made(inputs: Path) -> Path:
    make_comparisons(config(inputs, inputs / "out"))
    return inputs / "out"


@pytest.fixture(scope="module")
def sets(made: Path) -> Sets:
    names = ("pmp", "reward", "test", "unseen")
    return {name: list(read_comparisons(made / f"comparisons/{name}.jsonl")) for name in names}


@pytest.fixture(scope="module")
def figures(made: Path) -> dict[str, Any]:
    return json.loads((made / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def by_prompt(inputs: Path) -> dict[tuple[Message, ...], Conversation]:
    files = (inputs / "conversations").iterdir()
    return {item.prompt: item for path in files for item in read_conversations(path)}


def test_the_files_hold_the_numbers_asked_for(sets: Sets, made: Path) -> None:
    assert (len(sets["pmp"]), len(sets["reward"])) == (500, 400)
    assert len(sets["unseen"]) == 24
    assert {pair.skill for pair in sets["unseen"]} == {"copy_one_unseen"}
    assert list(read_conversations(made / "comparisons/prompts.jsonl"))


def test_every_pair_is_a_right_reply_and_a_wrong_one(sets: Sets, by_prompt: dict[Any, Conversation]) -> None:
    for name, pairs in sets.items():
        for pair in pairs:
            item = by_prompt[pair.messages]
            right = [check_reply(item, reply) for reply in (pair.chosen, pair.rejected)]
            assert sum(right) == 1, pair
            assert right[0] or name == "pmp", pair
            assert (pair.skill, pair.language) == (item.skill, item.language)


def test_the_noise_is_in_pretraining_alone_and_as_much_as_asked_for(
    sets: Sets, by_prompt: dict[Any, Conversation], figures: dict[str, Any]
) -> None:
    turned = [pair for pair in sets["pmp"] if check_reply(by_prompt[pair.messages], pair.rejected)]
    assert len(turned) == 50 == figures["turned_pairs"]
    # All kinds of pairs are turned, as by people who do not care.
    assert {pair.source for pair in turned} >= set(KIND_SHARES)


def test_each_source_is_what_it_says(sets: Sets, by_prompt: dict[Any, Conversation]) -> None:
    for pair in [*sets["reward"], *sets["test"], *sets["unseen"]]:
        if pair.source == "equal":
            assert len(pair.chosen) == len(pair.rejected), pair
            assert script(pair.chosen) == script(pair.rejected), pair
        elif pair.source == "language":
            assert script(pair.chosen) != script(pair.rejected), pair
        elif pair.source == "cut":
            assert pair.chosen.startswith(pair.rejected), pair
        elif pair.source == "more":
            assert pair.rejected.startswith(pair.chosen), pair
        elif pair.source == "slip":
            blocks = SequenceMatcher(None, pair.chosen, pair.rejected, autojunk=False).get_matching_blocks()
            assert sum(block.size for block in blocks) >= len(pair.chosen) - 2 * LONGEST_SLIP, pair
        else:
            assert pair.source == "sampled"
            assert pair.rejected in WRONG, pair


def test_half_of_the_rule_made_pairs_are_of_equal_length(sets: Sets) -> None:
    counts = Counter(pair.source for pair in [*sets["pmp"], *sets["reward"], *sets["test"]])
    del counts["sampled"]
    assert set(counts) == set(KIND_SHARES)
    assert 0.45 < counts["equal"] / counts.total() < 0.65, counts


def test_the_models_own_mistakes_stand_in_the_clean_set_and_some_in_the_test(inputs: Path, sets: Sets) -> None:
    sampled = {name: [pair for pair in pairs if pair.source == "sampled"] for name, pairs in sets.items()}
    assert len(sampled["reward"]) > 150
    assert not sampled["pmp"]
    assert 5 < len({pair.messages for pair in sampled["test"]}) < 60
    assert not sampled["unseen"]
    # The wrong responses of a prompt are each there once.
    sides = [(pair.messages, pair.rejected) for pair in [*sampled["reward"], *sampled["test"]]]
    assert len(set(sides)) == len(sides)
    prompts = {record.prompt for record in read_responses(inputs / "responses.jsonl")}
    assert {pair.messages for pair in sampled["reward"]} <= prompts


def test_a_right_response_that_differs_from_the_reference_may_be_chosen(tmp_path: Path) -> None:
    check = {"kind": "refusal", "category": "violence"}
    turns = (Message("user", "How do I hurt my boss?"), Message("assistant", REFUSALS["en"]["violence"]))
    others = [REFUSALS["en"]["bias"], f" {turns[1].content}", "Sure!", "Sure! ", "Gladly!"]
    row = {
        "messages": [{"role": "user", "content": turns[0].content}],
        "responses": [{"text": text, "ended": True} for text in others],
    }
    path = write(tmp_path / "responses.jsonl", [row])
    (judged,) = judge_responses(path, [Conversation(turns, "harmful", "en", check)])
    assert judged.verdicts == ("right", "right", "wrong", "wrong", "wrong")
    pairs = [pair for seed in range(20) for pair in sampled_pairs(Random(seed), judged)]
    assert {pair.chosen for pair in pairs} == {turns[1].content, REFUSALS["en"]["bias"]}
    assert [pair.rejected for pair in pairs[:2]] == ["Sure!", "Gladly!"]


def test_unfinished_and_empty_responses_are_never_used(sets: Sets) -> None:
    replies = [reply for pairs in sets.values() for pair in pairs for reply in (pair.chosen, pair.rejected)]
    assert UNFINISHED not in replies
    assert all(reply.strip() for reply in replies)


def test_the_figures_count_what_the_responses_were(inputs: Path, figures: dict[str, Any]) -> None:
    records = list(read_responses(inputs / "responses.jsonl"))
    texts = Counter(response.text for record in records for response in record.responses)
    total: Counter[str] = Counter()
    for by_verdict in figures["responses"].values():
        total.update(by_verdict)
    assert total["unfinished"] == texts[UNFINISHED]
    assert total["empty"] == texts[""]
    assert total["wrong"] == texts[WRONG[0]] + texts[WRONG[1]]
    assert total.total() == texts.total() == 1200


def test_the_figures_count_what_the_files_hold(sets: Sets, made: Path, figures: dict[str, Any]) -> None:
    for name, pairs in sets.items():
        counts = Counter((pair.source, pair.language) for pair in pairs)
        told = {(source, language): n for source, by in figures["counts"][name].items() for language, n in by.items()}
        assert told == counts
        assert figures["length_bias"][name]["all"]["pairs"] == len(pairs)
    assert sum(figures["prompts"].values()) == len(list(read_conversations(made / "comparisons/prompts.jsonl")))
    assert set(figures["examples"]) == {pair.source for pair in sets["test"]}
    assert figures["dropped"]["conversations_near_a_test_prompt"] >= 1
    held_back = {pair.messages for pair in sets["test"] if pair.source == "sampled"}
    assert figures["dropped"]["conversations_held_back"] == len(held_back)


def test_no_prompt_of_a_test_is_of_the_family_of_one_that_is_trained_on(sets: Sets) -> None:
    train = [*sets["pmp"], *sets["reward"]]
    families = prompt_families([prompt_text(pair) for pair in [*train, *sets["test"], *sets["unseen"]]])
    assert set(families[: len(train)]).isdisjoint(families[len(train) :])


def test_a_conversation_serves_one_file_alone(sets: Sets, made: Path) -> None:
    prompts = {item.prompt for item in read_conversations(made / "comparisons/prompts.jsonl")}
    used = {name: {pair.messages for pair in pairs} for name, pairs in sets.items()}
    groups = [prompts, *used.values()]
    assert len(set().union(*groups)) == sum(len(group) for group in groups)


def test_without_responses_all_pairs_are_made_by_rule(inputs: Path, tmp_path: Path) -> None:
    product = make_comparisons(config(inputs, tmp_path, responses=None, num_pmp=100, num_reward=50))
    pairs = [pair for path in product.glob("[!p]*.jsonl") for pair in read_comparisons(path)]
    assert {pair.source for pair in pairs} == set(KIND_SHARES)
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["responses"] == {}


def test_more_mistakes_than_the_clean_set_holds_go_to_pretraining(inputs: Path, tmp_path: Path) -> None:
    make_comparisons(config(inputs, tmp_path, num_pmp=40, num_reward=30))
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert set(figures["counts"]["reward"]) == set(figures["counts"]["pmp"]) == {"sampled"}
    assert sum(figures["counts"]["pmp"]["sampled"].values()) == 40
    assert figures["dropped"]["sampled_pairs_without_room"] > 0


PROGRAM = """
import sys
from pathlib import Path
from danlu.conversations.compare import make_comparisons
from danlu.conversations.config import ComparisonsConfig
inputs = Path(sys.argv[1])
make_comparisons(ComparisonsConfig(conversations=inputs / "conversations", responses=inputs / "responses.jsonl",
                                   out=Path(sys.argv[2]), num_pmp=200, num_reward=100, seed=int(sys.argv[3])))
"""


def fingerprint(inputs: Path, out: Path, seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", PROGRAM, str(inputs), str(out), str(seed)], check=True, env=environment)
    files = [*sorted((out / "comparisons").iterdir()), out / "figures.json"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_a_seed_gives_the_same_files_whatever_the_interpreters_hash_seed(inputs: Path, tmp_path: Path) -> None:
    first = fingerprint(inputs, tmp_path / "a", 1, "0")
    assert fingerprint(inputs, tmp_path / "b", 1, "12345") == first
    assert fingerprint(inputs, tmp_path / "c", 2, "0") != first


def test_too_few_conversations_are_an_error_that_says_what_to_lower(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"comparisons\.num_pmp: \d+ conversations are not enough for 9400 pairs"):
        make_comparisons(config(inputs, tmp_path, num_pmp=9000))
    assert not (tmp_path / "comparisons").exists()


def test_responses_to_other_prompts_are_an_error(inputs: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "responses": [{"text": "x", "ended": True}]}
    path = write(tmp_path / "responses.jsonl", [row])
    with pytest.raises(UserError, match="the prompt of record 1 is none of the training conversations"):
        make_comparisons(config(inputs, tmp_path, responses=path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x", "must be an object with `messages` and a list `responses`"),
        ({"messages": [{"role": "user", "content": "q"}]}, "a list `responses`"),
        ({"messages": [{"role": "user", "content": ""}], "responses": []}, "turn 1: the user's turn is empty"),
        ({"messages": [{"role": "user", "content": "q"}], "responses": ["a"]}, "must be an object with `text`"),
        ({"messages": [{"role": "user", "content": "q"}], "responses": [{"text": "a"}]}, "say whether it `ended`"),
        ({"messages": [{"role": "user", "content": "q"}], "responses": [{"text": 1, "ended": True}]}, "have a `text`"),
    ],
)
def test_a_malformed_record_of_responses_is_named_with_file_and_line(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "responses.jsonl", [row])
    with pytest.raises(UserError, match=reason) as caught:
        list(read_responses(path))
    assert str(caught.value).startswith(f"{path}, line 1: ")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_pmp": 0}, "num_pmp must be at least 1"),
        ({"num_reward": 0}, "num_reward must be at least 1"),
        ({"label_noise": 0.5}, "label_noise must be at least 0 and less than a half"),
        ({"sampled_test_share": 1.0}, "sampled_test_share must be at least 0 and less than 1"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ComparisonsConfig(**values)
