"""Answers are found where a reply states them, whatever stands around them; a reply without one has none."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.evaluation.answers.big_bench import SUBTASKS, same
from danlu.evaluation.answers.extract import TASKS, extract_answer
from danlu.evaluation.answers.grade import is_right

BBH = Path(__file__).parents[3] / "shared/data/eval/bbh"

NUMBERS = [
    ("The total is 72 clips, altogether.", "72"),
    ("She made $70,000.", "70000"),
    ("The answer is 70 000.", "70000"),
    ("#### 1 234 567", "1234567"),
    ("The answer is 5 apples and 100 pears.", "5"),
    ("#### 5 100 metre runs", "5"),
    ("The answer is 12 345 dollars.", "12345"),
    ("The answer is 1e6.", "1000000"),
    ("It weighs 2.5e-3 kg.", "0.0025"),
    ("It fell to -3.", "-3"),
    ("3 or 4? So 4", "4"),
    ("#### 1,200", "1200"),
    ("#### 18\n\nQuestion: Tom has 5 apples.\nAnswer: #### 7", "18"),
    ("#### 18\n#### 7", "18"),
    ("So she has 18.\n\nQ: Tom has 5 apples.\nA: The answer is 7.", "18"),
    ("一共18个。\n\n问题：汤姆有5个。\n答案：7", "18"),
    ("The answer is 18.<|im_end|>\n<|im_start|>user\n9", "18"),
    ("18<|endoftext|>7", "18"),
    ("There are none.", None),
    ("", None),
    ("It is −3.", "-3"),
    ("It costs -$5.", "-5"),
    ("It costs $-5.", "-5"),
    ("It costs \\$0.50.", "0.5"),
    ("It is .5 m", "0.5"),
    ("10-3", "3"),
    ("16 - 3 - 4 = 9", "9"),
    ("The answer is **42**.", "42"),
    ("The answer is $42$, which took 3 steps.", "42"),
    ("The final answer is 7. I checked it 2 times.", "7"),
    ("The answer to 3 + 4 is 7. There are 9 others.", "7"),
    ("The answer is 5 * 3 = 15.", "15"),
    ("Answer: 5 apples, and 3 are left over", "5"),
    ("Answer: She sold 48 / 2 = 24 clips in May, 72 altogether.", "72"),
    ("The answer is not 5. It is 6.", "6"),
    ("\\boxed{1{,}200}", "1200"),
    ("$\\boxed{15,\\!000}$", "15000"),
    ("We get \\boxed{12 \\text{ dollars}} for 3.", "12"),
    ("The answer is \\frac{1}{2}.", "0.5"),
    ("The answer is 1/3.", "1/3"),
    ("5.00", "5"),
    ("007", "7"),
    ("答案是70000元。", "70000"),
    ("共５００元", "500"),
    ("答案：三十五", "35"),
    ("约为1.5万", "15000"),
    ("She earned 3 million dollars.", "3000000"),
    ("He came 2nd with 15 points.", "15"),
    ("It takes 1 1/2 hours.", "1.5"),
    ('{"answer": 42}', "42"),
    ("15 points made him 2nd.", "15"),
    ("Water is H2O.", None),
    ("<think>5 or 6?</think>The answer is 6.", "6"),
    ("<think>5 or 6? The answer is 5", None),
    ("Question: what is 3 + 4?\nAnswer: 7", "7"),
    ("1,2,3", "3"),
]


@pytest.mark.parametrize(("reply", "number"), NUMBERS)
def test_a_number_is_the_stated_one_in_plain_digits(reply: str, number: str | None) -> None:
    assert extract_answer("gsm8k", reply) == number


OPTIONS = [
    ("Answer: **D**", "D"),
    ("I considered (A), but it is wrong. Final answer: C.", "C"),
    ("The answer is B. Note that A is a common trap.", "B"),
    ("A good guess is hard", None),
    ("the answer is (d)", "D"),
    ("Answer: $B", "B"),
    ("B", "B"),
    ("B.", "B"),
    (" (b)\n", "B"),
    ("**B**", "B"),
    ("`B`", "B"),
    ("（Ｃ）", "C"),
    ("B. Paris", "B"),
    ("(b) Paris", "B"),
    ("\\text{B}", "B"),
    ("$\\boxed{B}$", "B"),
    ("It is $\\boxed{\\text{(B)}}$.", "B"),
    ("The correct answer is: **B. Paris**", "B"),
    ("The answer is Paris (B).", "B"),
    ("The answer is option B", "B"),
    ("The correct option is therefore D.", "D"),
    ("B is correct.", "B"),
    ("Option C is the correct answer.", "C"),
    ("I would choose option C.", "C"),
    ("The answer is\n\nB", "B"),
    ("Reasoning about (A) and (B).\n\nC", "C"),
    ("So it must be (C)", "C"),
    ("(A) is wrong, (B) is wrong, so (C).", "C"),
    ("The answer is A. Wait, actually the answer is C.", "C"),
    ("The answer is A because it is the oldest.", "A"),
    ("Therefore, the answer is (A)", "A"),
    ("Is the answer A? No, it is B.", "B"),
    ("B\n\nWhich one?\nA. x\nB. y\nC. z\nD. w\nAnswer: D", "B"),
    ("The answer is B.\n\nWhich one?\nA. x\nB. y\nC. z\nD. w\nAnswer: D", "B"),
    ("A. x\nB. y\nC. z\nD. w\nAnswer: D", "D"),
    ("B<|im_end|>\nThe answer is C", "B"),
    ("B\n\nQuestion: another?\nAnswer: C", "B"),
    ("<think>The answer is A.</think>The answer is B.", "B"),
    ("<think>The answer is A.", None),
    ("(A) is wrong", None),
    ("The answer is not A.", None),
    ("The answer is A or B", None),
    ("Both A and C are true", None),
    ("The answer is a dog", None),
    ("The answer is A good thing", None),
    ("Answer: Canada", None),
    ("Answer: A hard one", None),
    ("As an AI I cannot say", None),
    ("I", None),
    ("Choice D.", "D"),
    ("I would say B", "B"),
    ("The answer is likely C.", "C"),
    ('{"answer": "C"}', "C"),
    ("<answer>C</answer>", "C"),
    ("A. x\nB. y\nC. z\nD. w", None),
    ("B、巴黎", "B"),
    ("【答案】D", "D"),
    ("答案：A。解析：B错误，C正确但不全。", "A"),
    ("由此可知，A、B、C三项都正确，D项错误，故选D。", "D"),
    ("答案是B", "B"),
    ("选B", "B"),
    ("故选：C", "C"),
    ("应选 D", "D"),
    ("答案：(A)", "A"),
    ("正确答案为Ｂ", "B"),
    ("答案为：【B】", "B"),
    ("正确的是B。", "B"),
    ("本题答案选择D项", "D"),
    ("我认为答案应该是 C 。", "C"),
    ("A错误，B错误，C正确，因此选C。", "C"),
    ("选项B正确，选项A错误", "B"),
    ("答案不是A，而是B", "B"),
    ("排除A", None),
    ("不选A", None),
    ("选A错误", None),
    ("选ＡＢ", None),
]


@pytest.mark.parametrize("task", ["mmlu", "ceval"])
@pytest.mark.parametrize(("reply", "letter"), OPTIONS)
def test_an_option_is_the_stated_one_and_never_a_word(task: str, reply: str, letter: str | None) -> None:
    assert extract_answer(task, reply) == letter


BIG_BENCH = [
    ("bbh_date_understanding", "So the answer is (D).", "(D)"),
    ("bbh_date_understanding", "d", "(D)"),
    ("bbh_reasoning_about_colored_objects", "I think that it is (I).", "(I)"),
    ("bbh_reasoning_about_colored_objects", "I think", "I think"),
    ("bbh_movie_recommendation", "So the answer is Monsters, Inc.", "Monsters, Inc"),
    ("bbh_navigate", "So the answer is No.", "No"),
    ("bbh_navigate", "no, we do not come back", "No"),
    ("bbh_sports_understanding", "It is plausible. So the answer is yes.", "yes"),
    ("bbh_web_of_lies", "Alice does not lie.", None),
    ("bbh_formal_fallacies", "The argument is not valid.", "invalid"),
    ("bbh_formal_fallacies", "**Invalid**", "invalid"),
    ("bbh_boolean_expressions", "not True is False. So the answer is False.", "False"),
    ("bbh_object_counting", "There are three plus 2. So the answer is 5.", "5"),
    ("bbh_multistep_arithmetic_two", "So the answer is -219.", "-219"),
    ("bbh_dyck_languages", 'So, we need "]", ">". So the answer is ] >.', "] >"),
    ("bbh_dyck_languages", "])", "] )"),
    ("bbh_word_sorting", "So the answer is costume counterpart oven.", "costume counterpart oven"),
    ("bbh_word_sorting", "Sorted: apple, bear, cat", "apple bear cat"),
    ("bbh_word_sorting", "1. apple\n2. bear\n3. cat", "apple bear cat"),
    ("bbh", "So the answer is (D).", "(D)"),
    ("bbh", "So the answer is No.", "No"),
    ("bbh", "So the answer is ] ) ).", "] ) )"),
    ("bbh", "So the answer is 3929.\n\nQ: 1 + 1 =\nA: So the answer is 2.", "3929"),
    ("bbh", "So the answer is arson aspect census.", "arson aspect census"),
    ("bbh", "", None),
]


@pytest.mark.parametrize(("task", "reply", "answer"), BIG_BENCH)
def test_big_bench_answers_are_of_the_kind_that_is_asked_for(task: str, reply: str, answer: str | None) -> None:
    assert extract_answer(task, reply) == answer


FORMULAS = [
    ("so $\\boxed{\\left(3,\\frac{\\pi}{2}\\right)}$.", "\\left(3,\\frac{\\pi}{2}\\right)"),
    ("first $\\boxed{1}$, then $\\boxed{2}$", "2"),
    ("$\\boxed{5}$, again $\\boxed{5}$", "5"),
    ("\\boxed{\\boxed{7}}", "7"),
    ("\\boxed{\\text{\\boxed{7}}}", "\\text{7}"),
    ("$\\fbox{3}$", "3"),
    ("$\\boxed 5$", "5"),
    ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ("Put it in \\boxed", None),
    ("Put it in \\boxed without braces", None),
    ("Put 5 in \\boxed", "5"),
    ("\\boxed{}", None),
    ("\\boxed{ }", None),
    ("Final Answer: The final answer is $24$. I hope it is correct.", "24"),
    ("The final answer is $(2, 3)$. I hope it is correct.\n\nProblem:\nWhat is 1?\n\\boxed{1}", "(2, 3)"),
    ("The answer is $x=5$, since $5+1=6$.", "x=5"),
    ("Answer: 1/2", "1/2"),
    ("The answer is Tuesday.", "Tuesday"),
    ("答案是$\\frac12$。", "\\frac12"),
    ("\\frac{1}{2}", "\\frac{1}{2}"),
    ("$\\sqrt{2}$", "\\sqrt{2}"),
    ("We add 3 and 4 and find 7.", "7"),
    ("I do not know what it is.", None),
    ("\\boxed{5}<|im_end|>\\boxed{6}", "5"),
    ("<think>\\boxed{5}", None),
    ("Question 1: yes, 3.\n\nQuestion 2: no.\n\nThe sum is $\\boxed{14}$.", "14"),
]


@pytest.mark.parametrize(("reply", "answer"), FORMULAS)
def test_an_answer_of_math_is_the_last_box_or_what_is_stated(reply: str, answer: str | None) -> None:
    assert extract_answer("math", reply) == answer


CODE = [
    ("```python\ndef f(x):\n    return x\n```", "def f(x):\n    return x"),
    ("First:\n```\na = 1\n```\nThen:\n```python\na = 2\n```\nDone.", "a = 2"),
    ("```python\ndef f(x):\n    return x", "def f(x):\n    return x"),
    ("def f(x):\n    return x\n", "def f(x):\n    return x"),
    ("    return x + 1\n", "    return x + 1"),
    ("Here it is:\ndef f(x):\n    return x\nIt returns x.", "def f(x):\n    return x"),
    ("def f(x):\n    return x<|im_end|>more", "def f(x):\n    return x"),
    ("<think>def g(): pass</think>\ndef f(x):\n    return x", "def f(x):\n    return x"),
    ("I cannot do that.", None),
    ("from a to b", None),
    ("No", None),
    ("```\n```", None),
    ("", None),
]


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
@pytest.mark.parametrize(("reply", "code"), CODE)
def test_code_is_the_last_block_or_the_reply_itself(task: str, reply: str, code: str | None) -> None:
    assert extract_answer(task, reply) == code


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    for task in ("gsm9k", "bbh_chess", "", "safety"):
        with pytest.raises(
            ValueError, match=r"unknown task .* known are bbh, ceval, gsm8k, math, mmlu, humaneval, mbpp"
        ):
            extract_answer(task, "5")
    with pytest.raises(ValueError, match="judge_code"):
        is_right("humaneval", "return 1", "return 1")
    with pytest.raises(ValueError, match="no number in the gold"):
        is_right("gsm8k", "5", "none")


GRADES = [
    ("gsm8k", "She makes $18.00 a day.", "16 - 3 - 4 = <<16-3-4=9>>9\n#### 18", True),
    ("gsm8k", "#### 1,200", "#### 1200", True),
    ("gsm8k", "19", "18", False),
    ("gsm8k", "none", "18", None),
    ("gsm8k", "0.3333", "1/3", False),
    ("mmlu", "The answer is (b).", "B", True),
    ("ceval", "选C", "B", False),
    ("ceval", "不知道", "B", None),
    ("math", "So $\\boxed{\\frac12}$.", "0.5", True),
    ("math", "$\\boxed{-2}$ and $\\boxed{1}$", "-2, 1", True),
    ("math", "So $\\boxed{3}$.", "0.5", False),
    ("math", "I do not know what it is.", "0.5", None),
    ("bbh_navigate", "So the answer is no.", "No", True),
    ("bbh_date_understanding", "D", "(D)", True),
    ("bbh_word_sorting", "So the answer is apple, Bear.", "apple bear", True),
    ("bbh_word_sorting", "So the answer is bear apple.", "apple bear", False),
    ("bbh_dyck_languages", "So the answer is ])", "] )", True),
    ("bbh_dyck_languages", "So the answer is )]", "] )", False),
    ("bbh_object_counting", "So the answer is 5.0", "5", True),
    ("bbh", "So the answer is (D).", "D", True),
]


@pytest.mark.parametrize(("task", "reply", "gold", "right"), GRADES)
def test_a_reply_is_right_wrong_or_has_no_answer(task: str, reply: str, gold: str, right: bool | None) -> None:
    assert is_right(task, reply, gold) is right


EVERY_TASK = (*TASKS, *(f"bbh_{subtask}" for subtask in sorted(SUBTASKS)))
PIECES = st.sampled_from(
    [
        "\\boxed{",
        "}",
        "$",
        "answer is ",
        "答案：",
        "(A)",
        "####",
        " 1,2",
        "\\frac",
        "not ",
        "\n",
        "Q: ",
        "<think>",
        "```",
    ]
)


@settings(max_examples=150, deadline=None)
@given(reply=st.one_of(st.text(max_size=60), st.lists(st.one_of(PIECES, st.text(max_size=4))).map("".join)))
def test_no_text_makes_the_extraction_fail(reply: str) -> None:
    for task in EVERY_TASK:
        answer = extract_answer(task, reply)
        assert answer is None or answer.strip(), f"{task} found an empty answer"


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "answer is ", "(A) ", "1,", "#### \n", "答案是", "```\n", "def f():\n", "{"]
)
def test_a_long_reply_takes_no_longer_than_its_length_asks(piece: str) -> None:
    reply = "x " + piece * (100_000 // len(piece))
    for task in TASKS:
        extract_answer(task, reply)


def gold_answers() -> list[tuple[str, str]]:
    """Subtask and target of every item of BBH."""
    if not BBH.exists():
        pytest.skip("BBH lies in ../shared/data/eval, which is absent here")
    files = sorted((BBH / "bbh").glob("*.json"))
    assert {file.stem for file in files} == SUBTASKS
    return [
        (file.stem, item["target"])
        for file in files
        for item in json.loads(file.read_text(encoding="utf-8"))["examples"]
    ]


@pytest.mark.parametrize("reply", ["{}", "So the answer is {}.", "Let us see.\nAnswer: **{}**\n\nQ: x\nA: (Z)"])
def test_every_target_of_big_bench_is_itself(reply: str) -> None:
    golds = gold_answers()
    right = [is_right(f"bbh_{subtask}", reply.replace("{}", target), target) for subtask, target in golds]
    assert (len(golds), right.count(True)) == (6511, 6511)
    for _, target in golds[::10]:
        answer = extract_answer("bbh", reply.replace("{}", target))
        assert answer is not None
        assert same(answer, target), f"without the subtask's name {target} is read as {answer}"


def test_the_worked_examples_of_big_bench_state_their_answers() -> None:
    if not BBH.exists():
        pytest.skip("BBH lies in ../shared/data/eval, which is absent here")
    found = 0
    for file in sorted((BBH / "cot-prompts").glob("*.txt")):
        for reply in re.findall(r"^A: (.*?)(?=^Q: |\Z)", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            stated = re.findall(r"the answer is (.*?)\.?$", reply.strip())[-1]
            assert is_right(f"bbh_{file.stem}", reply, stated) is True, f"{file.stem}: {reply[-80:]}"
            found += 1
    assert found == 81
