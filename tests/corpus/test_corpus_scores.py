"""Personal data, safety, contamination, perplexity and classifiers: what is measured of a document (D12, D14)."""

import json
from pathlib import Path

import numpy as np
import pytest

from danlu.corpus.config import CorpusConfig, DecontaminationConfig, QualityConfig
from danlu.corpus.scores.classifier import features, open_classifier
from danlu.corpus.scores.contamination import Items, build_items, contamination, open_items, read_items, save_items
from danlu.corpus.scores.models import check_models
from danlu.corpus.scores.perplexity import perplexity
from danlu.corpus.scores.personal_data import is_card_number, is_identity_number, mask
from danlu.corpus.scores.safety import by_expressions
from danlu.corpus.tokens import tokens
from danlu.corpus.train import area_under_curve, train_lm, train_quality, train_safety
from danlu.corpus.train_config import TrainLmConfig, TrainQualityConfig, TrainSafetyConfig
from danlu.run.errors import UserError

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to jane.doe+x@mail.co.uk.", "Write to <email>."),
        ("身份证号11010519491231002X。", "身份证号<identity>。"),
        ("身份证号110105194912310021", "身份证号110105194912310021"),
        ("电话13812345678或010-62345678", "电话<phone>或<phone>"),
        ("Call +44 20 7946 0958 or (415) 555-2671.", "Call <phone> or <phone>."),
        ("card 4111 1111 1111 1111, not 4111 1111 1111 1112", "card <card>, not 4111 1111 1111 1112"),
        ("邮箱-zhang@qq.com, _bob@foo.com", "邮箱-<email>, <email>"),
        ("at 2a02:8071:b7a::1a2b:3c4d.", "at <ip>."),
        ("from 8.8.8.8 to 192.168.0.1 and 2001:4860:4860::8888", "from <ip> to 192.168.0.1 and <ip>"),
    ],
)
def test_personal_data_are_found_by_form_and_check_digit(text: str, masked: str) -> None:
    assert mask(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "a@example.com", "version 1.2.3.4", "2024-01-02 12:34:56", "x = 12345678901234567890", "pi is 3.14159265358979",
        "10.1016/j.cell.2020-1234", "ISBN 978-7-111-12345-6", "第1234567890号", "1998年1月29日", "12:30:45", "a::b",
    ],
)  # fmt: skip
def test_numbers_of_other_kinds_are_left_alone(text: str) -> None:
    assert mask(text) == (text, 0)


def test_check_digits_are_those_of_the_standards() -> None:
    # GB 11643-1999's own example, and the numbers that card issuers publish for tests.
    assert is_identity_number("11010519491231002X")
    assert not is_identity_number("110105194912310020")
    assert not is_identity_number("11010519491331002X"), "there is no month 13"
    for card in ("4242424242424242", "5555555555554444", "378282246310005", "6011111111111117"):
        assert is_card_number(card)
        assert not is_card_number(card[:-1] + str((int(card[-1]) + 1) % 10))


@pytest.mark.parametrize(
    "text",
    [
        "一次性用品的性质决定了它不能重复使用，重复性劳动共有13项，女性乳房检查和乳腺健康同样重要。",
        "警方打击色情网站，法院以故意杀人罪判处被告人死刑，爆炸造成三人死亡，会议掀起高潮。",
        "The towns of Essex, Sussex and Scunthorpe; a naked eye sees it. The army killed forty people in the war.",
        "Use kill -9 to kill all processes; the cock crowed and the Nude mouse is a laboratory strain.",
    ],
)
def test_ordinary_text_is_not_offensive(text: str) -> None:
    assert max(by_expressions(text.lower(), len(tokens(text))).values()) <= 0.5


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("pornography", "激情视频裸聊，色情网站免费看"),
        ("pornography", "Free porn videos and live sex cams, xxx videos"),
        ("pornography", "看free porn视频，xxx videos"),
        ("violence", "我要砍死你，杀了你全家"), ("violence", "I will kill you and burn them alive"),
        ("hate", "他们是劣等民族，都是杂种"), ("hate", "They are subhuman vermin race, go back to your country"),
    ],
)  # fmt: skip
def test_each_class_has_a_text_that_is(kind: str, text: str) -> None:
    scores = by_expressions(text.lower(), len(tokens(text)))
    assert scores[kind] > 0.5
    assert max(scores, key=lambda name: scores[name]) == kind


QUESTION = (
    "A farmer in the north keeps twelve hens and four geese, sells three hens at the market on Monday and buys two "
    "geese from a neighbour on Tuesday; how many birds walk about in his yard on Wednesday morning?"
)
CHINESE_QUESTION = (
    "下列关于春秋战国时期铁制农具与牛耕技术推广的叙述，正确的是哪一项？请结合当时的社会经济状况加以判断。"
)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "15"}) + "\n")
    (folder / "b.csv").write_text(f"id,question,A,B,C,D,answer\n1,{CHINESE_QUESTION},甲,乙,丙,丁,A\n", encoding="utf-8")
    shared = "以下是单项选择题，请选出其中的正确答案，并且只写出选项的字母，不要写出其他任何内容。"
    with (folder / "c.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(30):
            own = "".join(chr(0x4E00 + 40 * number + place) for place in range(40))
            stream.write(json.dumps({"question": shared + own}, ensure_ascii=False) + "\n")
    return folder


def items_of(folder: Path, **values: float) -> Items:
    return build_items([folder], DecontaminationConfig(**values))  # type: ignore[arg-type]


def test_items_are_found_wrapped_in_other_case_width_and_script(sets: Path) -> None:
    items = items_of(sets)
    words = QUESTION.upper().split()
    wrapped = "\n".join(" ".join(words[i : i + 6]) for i in range(0, len(words), 6))
    assert contamination(items, f"Some text before.\n{wrapped}\nAnd after.") == (1.0, "a.jsonl#1")
    traditional = "下列關於春秋戰國時期鐵製農具與牛耕技術推廣的敘述，正確的是哪一項？請結合當時的社會經濟狀況加以判斷。"
    for text in (CHINESE_QUESTION, CHINESE_QUESTION.replace("，", ","), traditional):
        share, name = contamination(items, f"前文在此。{text}后文在此。")
        assert (share > 0.9, name) == (True, "b.csv#1")


def test_shared_instructions_are_no_evidence(sets: Path) -> None:
    items = items_of(sets)
    share, _ = contamination(
        items, "以下是单项选择题，请选出其中的正确答案，并且只写出选项的字母，不要写出其他任何内容。"
    )
    assert share < 0.5
    assert contamination(items, "A text of its own about hens, geese and the market in the north of the land.")[0] == 0


def test_an_item_that_every_set_repeats_is_found_and_one_telling_ngram_is_not_enough(tmp_path: Path) -> None:
    lines = [json.dumps({"question": QUESTION})] * 30
    lines += [json.dumps({"question": f"{QUESTION} {word}"}) for word in ("One.", "Two.")]
    lines += [
        json.dumps({"question": "Another item of words that none of those above has, long enough to be compared."})
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    items = items_of(tmp_path, max_documents_an_ngram=2)
    assert contamination(items, QUESTION)[0] == 0, "its n-grams are those of three items here"
    assert items.not_compared == 3
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:30]))
    assert contamination(items_of(tmp_path, max_documents_an_ngram=2), QUESTION)[0] == 1


def test_options_come_with_a_short_question_whatever_they_are_called(tmp_path: Path) -> None:
    words = [f"the {place} of the old town by the river" for place in ("harbour", "market")]
    records = [
        {"question": "Which one?", "choices": words}, {"question": "Which?", "choices": {"text": words, "label": [1]}},
        {"question": "Which two?", "A": words[0], "B": words[1]},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n" + json.dumps({"question": "a\u2028b"}))
    found = [text for _, text in read_items(tmp_path)]
    assert all(words[1] in text for text in found[:3])
    assert len(found) == 4


def test_the_threshold_is_asked(sets: Path) -> None:
    """Half of an item and a little more: the share of its n-grams is what it is, and the bound decides."""
    items = items_of(sets)
    words = QUESTION.split()
    share, _ = contamination(items, " ".join(words[:26]))
    assert 0.3 < share < 0.7
    all_of_it, _ = contamination(items, QUESTION)
    assert all_of_it == 1.0


def test_sets_are_kept_in_a_file_and_bad_ones_are_one_clear_line(sets: Path, tmp_path: Path) -> None:
    save_items(items_of(sets), tmp_path / "items.npz")
    assert contamination(open_items(tmp_path / "items.npz"), QUESTION) == (1.0, "a.jsonl#1")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty.*holds no evaluation item"):
        list(read_items(empty))
    (empty / "x.jsonl").write_text('{"question": "half')
    with pytest.raises(UserError, match=r"x.jsonl.*cannot be read"):
        list(read_items(empty))
    (empty / "x.jsonl").write_text('{"question": "too short"}')
    with pytest.raises(UserError, match="too short to be compared"):
        items_of(empty)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' files are not beside the project")
def test_real_benchmark_questions_are_found_when_they_are_planted() -> None:
    items = items_of(SHARED / "ceval" / "val")
    texts = dict(read_items(SHARED / "ceval" / "val"))
    caught = [
        contamination(items, f"网页开头的文字。{texts[name]}网页结尾的文字。")[0] >= 0.5 for name in items.names[::7]
    ]
    assert np.mean(caught) >= 0.99


EN = "The river runs through the old town and the people of the town walk along it in the evening when the sun is low. "
ZH = "河水穿过古老的城镇，傍晚太阳西下的时候，镇上的人们沿着河岸散步，谈论当天发生的事情。"


def texts_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(40):
        words, signs = EN.split(), list(ZH)
        rng.shuffle(words)
        rng.shuffle(signs)
        (tmp_path / "good").mkdir(exist_ok=True)
        (tmp_path / "good" / f"{number}.txt").write_text(EN * 3 + " ".join(words), encoding="utf-8")
        (tmp_path / "good" / f"zh{number}.txt").write_text(ZH * 3 + "".join(signs), encoding="utf-8")
        (tmp_path / "bad").mkdir(exist_ok=True)
        menu = "Home News Sports Sign in Register Contact us Privacy policy Terms of use " * 3
        (tmp_path / "bad" / f"{number}.txt").write_text(menu + f"Page {number} of the list", encoding="utf-8")
        chinese_menu = "首页 新闻 体育 登录 注册 联系我们 版权所有 网站地图 热门推荐 " * 3
        (tmp_path / "bad" / f"zh{number}.txt").write_text(chinese_menu + f"第{number}页的列表", encoding="utf-8")
    return tmp_path


def test_a_language_model_knows_text_like_its_own(tmp_path: Path) -> None:
    folder = texts_folder(tmp_path)
    models = train_lm(TrainLmConfig(input=folder, sources=("good",), out=tmp_path / "lm"))
    for language, text, other in (("en", EN, "quartz sphinx judges my vow"), ("zh", ZH, "龘靐齉爩灪麤")):
        own, strange = (perplexity(models, language, tokens(sample)) for sample in (text, other))
        assert own is not None
        assert strange is not None
        assert own < 0.2 * strange
    assert perplexity(models, "fr", ["bonjour"]) is None
    assert perplexity(models, "en", []) is None
    figures = json.loads((tmp_path / "lm" / "figures.json").read_text())
    assert figures["languages"]["zh"]["tokens"] > 1000
    with pytest.raises(UserError, match="tokens of `fr`, too few"):
        train_lm(TrainLmConfig(input=folder, languages=("fr",), out=tmp_path / "fr"))
    with pytest.raises(UserError, match=r"no source `none` here.*bad, good"):
        train_lm(TrainLmConfig(input=folder, sources=("none",), out=tmp_path / "none"))


def test_a_classifier_tells_good_from_bad_text_and_is_the_same_again(tmp_path: Path) -> None:
    folder = texts_folder(tmp_path)
    config = TrainQualityConfig(good=folder / "good", bad=folder / "bad", out=tmp_path / "q", epochs=40)
    first = train_quality(config)
    classifier = open_classifier(first, "en")
    assert classifier is not None
    good, bad = (classifier.scores(tokens(text))["good"] for text in (EN, "Home News Sign in Register Privacy policy"))
    assert good > 0.6 > 0.4 > bad
    before = classifier.weights
    open_classifier.cache_clear()
    again = open_classifier(train_quality(config), "en")
    assert again is not None
    assert np.array_equal(again.weights, before)
    assert open_classifier(first, "fr") is None
    (first / "de.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no classifier of ours"):
        open_classifier(first, "de")


def test_a_safety_classifier_is_trained_from_labelled_lines(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    kinds = {
        "violence": "they stab and shoot",
        "hate": "those people are worthless",
        "pornography": "naked girls online",
    }
    lines = [
        {"text": f"{text} and so it goes on and on number {number} in the evening", "labels": [name]}
        for number in range(40)
        for name, text in kinds.items()
    ]
    lines += [{"text": f"{EN} Number {number}.", "labels": []} for number in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)))
    models = train_safety(TrainSafetyConfig(examples=path, languages=("en",), out=tmp_path / "s", epochs=40))
    classifier = open_classifier(models, "en")
    assert classifier is not None
    assert (
        classifier.scores(tokens("they stab and shoot"))["violence"] > 0.5 > classifier.scores(tokens(EN))["violence"]
    )
    path.write_text('{"text": "x", "labels": ["rude"]}')
    with pytest.raises(UserError, match=r"examples.jsonl:1: unknown label rude"):
        train_safety(TrainSafetyConfig(examples=path, out=tmp_path / "s"))


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 6, 60).astype(float), rng.integers(0, 2, 60)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert area_under_curve(scores, labels) == pytest.approx(np.mean(pairs))
    assert area_under_curve([1.0, 2.0], [1, 1]) is None


def test_features_of_a_short_text_are_few_and_of_an_empty_one_none() -> None:
    assert len(features([])) == 0
    assert len(features(["one"])) == 1
    assert len(features(["a", "b", "c"])) == 3 + 2 + 1


def test_a_bound_without_a_model_says_how_to_train_one(tmp_path: Path) -> None:
    bound = QualityConfig(max_perplexity={"fr": 100.0})
    with pytest.raises(UserError, match="train-lm"):
        check_models(CorpusConfig(quality=bound))
    with pytest.raises(UserError, match=r"holds no model.*train-lm"):
        check_models(CorpusConfig(perplexity_models=tmp_path))
    (tmp_path / "zh.arpa").write_text("x")
    with pytest.raises(UserError, match=r"no model for `fr`.*--languages fr"):
        check_models(CorpusConfig(perplexity_models=tmp_path, quality=bound))
    assert "no model for `en`" in check_models(CorpusConfig(perplexity_models=tmp_path))[0]
