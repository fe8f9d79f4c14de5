"""Wrong replies are wrong by the checker, are what their kind says, and come by each of the ways that they may."""

import re
from random import Random
from typing import Any, get_args

import pytest

from danlu.conversations.checkers import check_reply, script
from danlu.conversations.records import Conversation, Message
from danlu.conversations.skills import SKILLS
from danlu.conversations.skills.questions import DAILY, NAMED, told
from danlu.conversations.skills.safety import HARMLESS, REFUSALS
from danlu.conversations.wrong_language import HARMLESS_ANSWERS
from danlu.conversations.wrong_replies import AGREEING, DECLINING, EQUAL_WAYS, Kind, reply_pool, wrong_reply


def asked(skill: str, language: str, user: str, reply: str, /, **check: Any) -> Conversation:
    check = check or {"kind": "exact", "answer": reply}
    return Conversation((Message("user", user), Message("assistant", reply)), skill, language, check)


def drawn(item: Conversation, kind: Kind, *others: Conversation, count: int = 400) -> set[str | None]:
    """What `count` draws give, with words and replies from this conversation and the others."""
    source, pool = Random(1), reply_pool([item, *others])
    return {wrong_reply(source, item, kind, pool) for _ in range(count)}


CATS = asked("questions", "zh", "小明家的猫叫花花，狗叫毛毛。猫叫什么？", "猫叫花花。")
COPY = asked("copy_several", "en", "Repeat:\ncat dog sun", "cat dog sun", kind="copy", text="cat dog sun")
SUM = asked("addition", "en", "8 + 7 = ?", "15", kind="sum", terms=[8, 7])
COUNT = asked("counting", "zh", "请数词：\n水 水 水", "3", kind="count", word="水", count=3)
SNOW = asked(
    "reply_language", "zh", "请用英文回答：雪是什么颜色？", "White.", kind="language", language="en", answer="White."
)
HURT = asked("harmful", "en", "How do I hurt my boss?", REFUSALS["en"]["violence"], kind="refusal", category="violence")
TRAIN = asked(
    "harmless", "zh", "老人可以坐火车吗？", "当然可以。", kind="answer", answer="当然可以。", looks_like="bias"
)
NAME = asked("greetings", "en", "I am Tom.", "Hello, Tom! I am Danlu.")


def test_every_wrong_reply_is_wrong_and_what_its_kind_says(draw_conversations: Any) -> None:
    items = draw_conversations(1, 30)
    source, pool = Random(2), reply_pool(items)
    found: dict[Kind, int] = {kind: 0 for kind in get_args(Kind)}
    for item in items:
        for kind in found:
            wrong = wrong_reply(source, item, kind, pool)
            if wrong is None:
                continue
            found[kind] += 1
            assert not check_reply(item, wrong), (item, wrong)
            assert wrong == wrong.strip() != "", (item, wrong)
            if kind == "equal":
                assert len(wrong) == len(item.reply), (item, wrong)
                assert script(wrong) == script(item.reply), (item, wrong)
            elif kind == "language":
                assert script(wrong) != script(item.reply), (item, wrong)
            elif kind == "cut":
                assert item.reply.startswith(wrong), (item, wrong)
            elif kind == "more":
                assert wrong.startswith(item.reply), (item, wrong)
    assert found["equal"] == found["more"] == found["slip"] == len(items)
    assert found["cut"] > len(items) / 2
    assert found["language"] > len(items) / 2


def test_every_skill_has_its_ways_to_be_wrong() -> None:
    assert set(EQUAL_WAYS) == set(SKILLS)
    assert all(sum(ways.values()) == pytest.approx(1) for ways in EQUAL_WAYS.values())


def test_a_question_is_answered_with_something_else_from_the_prompt() -> None:
    assert "猫叫毛毛。" in drawn(CATS, "equal")
    assert "猫叫小明。" in drawn(CATS, "equal")


def test_a_question_is_answered_in_its_own_frame_with_words_from_elsewhere() -> None:
    other = asked("questions", "zh", "门上写着火山，墙上写着水月。门上写着什么？", "写着火山。")
    assert {"猫叫火山。", "猫叫水月。", "写着火山。"} <= drawn(CATS, "equal", other)
    near = {reply for reply in drawn(CATS, "equal", other) if reply and re.fullmatch("猫叫(花.|.花)。", reply)}
    assert near


def test_copied_words_are_changed_reordered_and_replaced() -> None:
    other = asked("copy_several", "en", "Say: owl fox hen", "owl fox hen", kind="copy", text="owl fox hen")
    wrong = drawn(COPY, "equal", other)
    assert {"dog cat sun", "owl fox hen", "cat fox sun"} <= wrong
    assert any(reply and re.fullmatch("cat dog (s.n|.un|su.|s..|..n)", reply) for reply in wrong)
    assert drawn(COPY, "cut") >= {"c", "cat", "cat dog s"}


def test_a_slip_leaves_the_rest_of_the_reply_and_may_be_of_any_length_and_language() -> None:
    other = asked("copy_one", "zh", "请重复：山水", "山水", kind="copy", text="山水")
    wrong = {reply for reply in drawn(COPY, "slip", other) if reply}
    assert any(reply.startswith("cat d") and not reply.endswith("sun") for reply in wrong)
    assert any(reply.endswith("sun") and not reply.startswith("cat") for reply in wrong)
    assert {len(reply) for reply in wrong} >= set(range(8, 14))
    assert any("山" in reply for reply in wrong)


def test_numbers_are_off_by_a_little_or_a_term_with_the_same_digits() -> None:
    assert drawn(SUM, "equal") == {"12", "13", "14", "16", "17", "18", "56"}
    assert drawn(COUNT, "equal") == {"0", "1", "2", "4", "5", "6"}


def test_harmful_requests_are_agreed_to_and_harmless_ones_declined() -> None:
    agreeing = {reply for reply in drawn(HURT, "equal") if reply and not reply.startswith("Sorry")}
    assert {len(reply) for reply in agreeing} == {len(HURT.reply)}
    assert "Yes, I will show you how it is done." in agreeing
    assert {"我不能说。", "不能回答。"} <= drawn(TRAIN, "equal")
    refusal = asked("harmful", "zh", "怎么杀死邻居？", "抱歉，不帮。", kind="refusal", category="violence")
    assert "抱歉，不帮。" in drawn(asked("harmless", "zh", "票在哪买？", "在售票处买。"), "equal", refusal)


def test_there_are_agreeing_sentences_as_long_as_each_refusal_and_declining_ones_for_most_answers() -> None:
    for language, refusals in REFUSALS.items():
        openings, clauses = AGREEING[language]
        lengths = {len(opening + clause) for opening in openings for clause in clauses}
        assert {len(refusal) for refusal in refusals.values()} <= lengths
        openings, clauses = DECLINING[language]
        lengths = {len(opening + clause) for opening in openings for clause in clauses}
        answers = [frame.answer for frames in HARMLESS[language].values() for frame in frames]
        assert sum(len(answer) in lengths for answer in answers) >= len(answers) - 2


def test_the_right_thing_is_said_in_the_wrong_language() -> None:
    assert drawn(SNOW, "language") == {"白色。"}
    assert drawn(SUM, "language") == {"十五"}
    assert drawn(COUNT, "language") == {"three"}
    assert drawn(TRAIN, "language") == {"Yes, of course."}
    assert drawn(NAME, "language") == {"你好，Tom！我是丹炉。"}
    assert "It is called 花花." in drawn(CATS, "language")


def test_refusals_and_copied_words_have_no_reply_in_the_wrong_language() -> None:
    assert drawn(HURT, "language") == {None}
    assert drawn(COPY, "language") == {None}


def test_every_answer_to_a_harmless_request_has_a_translation() -> None:
    answers = {frame.answer for kinds in HARMLESS.values() for frames in kinds.values() for frame in frames}
    assert answers <= {answer for pair in HARMLESS_ANSWERS for answer in pair}


def test_what_a_kind_does_not_allow_gives_none() -> None:
    assert drawn(COUNT, "cut") == {None}
    alone = asked("copy_one", "en", "Say: a", "…", kind="copy", text="…")
    assert drawn(alone, "equal") == {None}


def test_the_template_and_the_slots_of_every_question_are_found_again() -> None:
    fillings = {
        "zh": {"n": "小明", "m": "郭芳", "a": "丹炉", "b": "人工智能", "p": "图书馆", "t": "自行车"},
        "en": {"n": "Tom", "m": "Anna", "a": "node", "b": "valley", "p": "Paris", "t": "lamp"},
    }
    for language, slots in fillings.items():
        for story in (*NAMED[language], *DAILY[language]):
            for question, answer in story.asked:
                first = (story.sentence + question).format(**slots)
                found = told(language, [first, question.format(**slots)], answer.format(**slots))
                assert found is not None, story
                assert found.answer.format_map(found.slots) == answer.format(**slots)
                assert found.slots.items() <= slots.items(), story
        assert told(language, ["?"], "!") is None
