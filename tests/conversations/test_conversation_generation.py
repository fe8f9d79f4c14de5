"""The demo's conversations: right by their own checkers, apart from each other, the same for a seed, on any corpus."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from danlu.conversations.checkers import check_reply, is_refusal, script
from danlu.conversations.config import ConversationsConfig
from danlu.conversations.generate import generate_conversations
from danlu.conversations.records import Conversation, Message, read_conversations
from danlu.conversations.skills import SKILLS, UNSEEN_SKILLS
from danlu.conversations.skills.arithmetic import held_out_sums
from danlu.conversations.skills.safety import ALL_REFUSALS
from danlu.run.errors import UserError

ENGLISH = (
    "the blacksmith carried heavy hammers through the narrow valley while winter storms gathered above silent "
    "mountains and every traveller waited beside warm ovens for bread honey pepper and stories about distant harbours "
    "sailors merchants lanterns copper silver velvet orchards gardens bridges castles rivers meadows foxes ravens"
)
CHINESE = (
    "炼丹的火炉在山洞里烧了三天，道士守着火炉，不敢睡觉。村民说火炉能烧出仙丹，道士笑了。仙丹放在木盒，木盒藏在山洞。"
)


def corpus(folder: Path, texts: dict[str, str]) -> Path:
    """The corpus stage's product with one document a language."""
    (folder / "train").mkdir(parents=True)
    rows = [
        {"id": str(number), "text": text, "source": "test", "language": language, "weight": 1.0}
        for number, (language, text) in enumerate(texts.items())
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train/part-0.parquet")
    return folder


def small(folder: Path, **values: Any) -> ConversationsConfig:
    defaults = {"num_conversations": 1500, "test_per_skill": 30, "min_count_zh": 2, "min_count_en": 1}
    return ConversationsConfig(input=folder / "documents", out=folder / "out", **{**defaults, **values})


Files = dict[str, list[Conversation]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files]:
    folder = tmp_path_factory.mktemp("generation")
    corpus(folder / "documents", {"en": ENGLISH, "zh": CHINESE * 5})
    product = generate_conversations(small(folder))
    return folder, {name: list(read_conversations(product / f"{name}.jsonl")) for name in ("train", "test", "unseen")}


@pytest.fixture(scope="module")
def files(made: tuple[Path, Files]) -> Files:
    return made[1]


def test_the_product_holds_the_numbers_asked_for(files: Files) -> None:
    assert len(files["train"]) == 1500
    for name in SKILLS:
        assert sum(item.skill == name for item in files["test"]) == 30, name
    for name in UNSEEN_SKILLS:
        assert sum(item.skill == f"{name}_unseen" for item in files["unseen"]) == 30, name
    for name, items in files.items():
        assert abs(sum(item.language == "zh" for item in items) - len(items) / 2) <= 1, name


def test_the_figures_count_what_the_files_hold(made: tuple[Path, Files]) -> None:
    folder, files = made
    figures = json.loads((folder / "out/figures.json").read_text(encoding="utf-8"))
    for name, items in files.items():
        assert sum(sum(by.values()) for by in figures["counts"][name].values()) == len(items)
    assert figures["multi_turn"] > 0
    assert figures["with_system"] > 0
    assert set(figures["examples"]) == {*SKILLS, *(f"{name}_unseen" for name in UNSEEN_SKILLS)}


def test_the_reference_reply_of_every_conversation_is_right(files: Files) -> None:
    for item in [*files["train"], *files["test"], *files["unseen"]]:
        assert check_reply(item, item.reply), item
        assert check_reply(item, f" {unicodedata.normalize('NFD', item.reply)}\n"), item


PERTURBATIONS: tuple[Callable[[str], str], ...] = (
    lambda reply: "",
    lambda reply: reply + "x",
    lambda reply: reply[1:],
    lambda reply: reply[:-1],
    lambda reply: reply + reply,
    lambda reply: "x" + reply,
)


def test_perturbed_replies_are_wrong(files: Files) -> None:
    for item in [*files["train"], *files["test"], *files["unseen"]]:
        for perturb in PERTURBATIONS:
            assert not check_reply(item, perturb(item.reply)), (item, perturb(item.reply))


def test_another_conversations_reply_is_wrong(files: Files) -> None:
    items = files["test"]
    for item, other in itertools.pairwise(items):
        refusals = item.skill == other.skill == "harmful"
        assert check_reply(item, other.reply) == (item.reply == other.reply or refusals), (item, other.reply)


def test_training_conversations_are_all_different(files: Files) -> None:
    assert len({item.messages for item in files["train"]}) == len(files["train"])


def last_question(item: Conversation) -> str:
    return item.prompt[-1].content


def test_no_prompt_of_a_test_is_trained_on(files: Files) -> None:
    prompts = {item.prompt for item in files["train"]}
    assert not [item for item in files["test"] + files["unseen"] if item.prompt in prompts]


def test_no_question_of_a_test_is_trained_on_behind_other_turns(files: Files) -> None:
    asked = {m.content for item in files["train"] for m in item.messages if m.role == "user"}
    # What only makes sense with the turn before ("And milk?") recurs; its earlier turns are new (the test above).
    follow_up = {"greetings", "reply_language", "questions", "questions_unseen"}
    for item in files["test"] + files["unseen"]:
        if item.skill not in follow_up or sum(m.role == "user" for m in item.messages) == 1:
            assert last_question(item) not in asked, item


def test_unseen_words_occur_nowhere_in_training(files: Files) -> None:
    text = "\n".join(m.content for item in files["train"] for m in item.messages).lower()
    words = {
        word
        for item in files["unseen"]
        if item.check and item.check["kind"] == "copy"
        for word in re.findall(r"[a-z]+|[\u4e00-\u9fff]+", item.check["text"])
    }
    assert len(words) >= 10
    assert not [word for word in words if word in text]


def test_held_out_sums_are_added_in_the_test_alone(files: Files) -> None:
    def sums(items: list[Conversation]) -> set[tuple[int, int]]:
        return {tuple(item.check["terms"]) for item in items if item.check and item.check["kind"] == "sum"}

    assert len(held_out_sums()) == 20
    assert sums(files["test"]) <= held_out_sums()
    assert sums(files["train"]).isdisjoint(held_out_sums())
    # The same digits in the other order may be trained on.
    assert not {(b, a) for a, b in held_out_sums()} & held_out_sums()


def test_harmful_requests_are_declined_and_look_alikes_answered(files: Files) -> None:
    for item in [*files["train"], *files["test"]]:
        assert is_refusal(item.reply) == (item.skill == "harmful"), item
    categories = {item.check["category"] for item in files["test"] if item.check and item.skill == "harmful"}
    assert categories == {"violence", "bias", "pornography"}
    assert len(ALL_REFUSALS) == 6


def test_replies_are_in_the_language_asked_for(files: Files) -> None:
    replies = [item for item in files["train"] if item.skill == "reply_language" and item.check]
    assert all(script(item.reply) == item.check["language"] for item in replies if item.check)
    crossed = [item for item in replies if item.check and item.check["language"] != item.language]
    assert len(crossed) > len(replies) / 4


def test_a_reply_in_the_wrong_language_is_wrong() -> None:
    check = {"kind": "language", "language": "en", "answer": "White."}
    item = Conversation((Message("user", "雪？"), Message("assistant", "White.")), "reply_language", "zh", check)
    assert not check_reply(item, "白色。")
    assert script("白 white") == "mixed"
    assert script("3 ?") == "none"


def test_a_conversation_without_a_known_check_cannot_be_judged() -> None:
    messages = (Message("user", "q"), Message("assistant", "a"))
    with pytest.raises(ValueError, match="no `check`"):
        check_reply(Conversation(messages), "a")
    with pytest.raises(ValueError, match="unknown kind of check 'taste'"):
        check_reply(Conversation(messages, check={"kind": "taste"}), "a")


PROGRAM = """
import sys
from pathlib import Path
from danlu.conversations.config import ConversationsConfig
from danlu.conversations.generate import generate_conversations
generate_conversations(ConversationsConfig(input=Path(sys.argv[1]), out=Path(sys.argv[2]), num_conversations=300,
                                           test_per_skill=10, min_count_zh=2, min_count_en=1, seed=int(sys.argv[3])))
"""


def fingerprint(folder: Path, seed: int, hash_seed: str) -> str:
    out = folder / f"out-{seed}-{hash_seed}"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", PROGRAM, str(folder / "documents"), str(out), str(seed)]
    subprocess.run(command, check=True, env=environment)
    parts = [(out / "conversations" / f"{name}.jsonl").read_bytes() for name in ("train", "test", "unseen")]
    return hashlib.sha256(b"".join([*parts, (out / "figures.json").read_bytes()])).hexdigest()


def test_a_seed_gives_the_same_files_whatever_the_interpreters_hash_seed(made: tuple[Path, Files]) -> None:
    folder = made[0]
    first = fingerprint(folder, 1, "0")
    assert fingerprint(folder, 1, "12345") == first
    assert fingerprint(folder, 2, "0") != first


@pytest.mark.parametrize("texts", [{"en": "One word."}, {"zh": "好。"}, {"en": ENGLISH}], ids=["tiny", "zh", "en"])
def test_a_corpus_of_almost_nothing_is_enough(tmp_path: Path, texts: dict[str, str]) -> None:
    corpus(tmp_path / "documents", texts)
    product = generate_conversations(small(tmp_path, num_conversations=200, test_per_skill=6))
    assert len(list(read_conversations(product / "unseen.jsonl"))) == 18


def test_a_corpus_without_chinese_and_english_is_an_error(tmp_path: Path) -> None:
    corpus(tmp_path / "documents", {"code": "x = 1"})
    with pytest.raises(UserError, match="no documents in Chinese or English"):
        generate_conversations(small(tmp_path))


def test_a_missing_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        generate_conversations(small(tmp_path))


def test_a_skill_that_is_used_up_says_which_share_to_lower(tmp_path: Path) -> None:
    corpus(tmp_path / "documents", {"en": ENGLISH})
    shares = {f"{name}_share": float(name == "harmless") for name in SKILLS}
    config = small(tmp_path, num_conversations=20_000, multi_turn_share=0.0, system_share=0.0, **shares)
    with pytest.raises(UserError, match=r"conversations\.harmless_share: only \d+ different conversations"):
        generate_conversations(config)
    assert not (tmp_path / "out/conversations").exists()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_conversations": 0}, "num_conversations must be at least 1"),
        ({"unseen_share": 1.0}, "unseen_share must lie between 0 and 1"),
        ({"made_up_share": 1.5}, "made_up_share must lie from 0 to 1"),
        ({"copy_one_share": 0.5}, "must add up to 1"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ConversationsConfig(**values)


def test_the_configuration_imports_nothing_heavy() -> None:
    program = "import sys, danlu.conversations.config; print({'numpy', 'pyarrow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
