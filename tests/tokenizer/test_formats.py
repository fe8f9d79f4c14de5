"""Rank file, `tokenizer.json` and AutoTokenizer give the same ids and the same ChatML."""

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.run.errors import UserError
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat import encode_conversation, render_conversation
from danlu.tokenizer.documents import iter_documents
from danlu.tokenizer.formats import FILES, RANK_FILE
from danlu.tokenizer.special import QWEN_PATTERN

FAMILIAR = st.text(
    st.sampled_from("the river你好，世界哈123 \t\r\n'sſS.!<|>im_endé\u0301가각👍🏽ﬁ\u3000\u2028\x85"), max_size=60
)
TEXTS = st.one_of(FAMILIAR, st.text(max_size=40)).map(lambda text: unicodedata.normalize("NFC", text))


@pytest.fixture(scope="module")
def plain_tiktoken(tokenizer_folder: Path) -> tiktoken.Encoding:
    """The rank file read as tiktoken's users read it, without our code."""
    lines = (tokenizer_folder / RANK_FILE).read_text().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding("plain", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def auto(tokenizer_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(tokenizer_folder)


@given(TEXTS)
@settings(max_examples=500, deadline=None)
def test_three_ways_agree_on_any_text(
    tokenizer: Tokenizer, plain_tiktoken: tiktoken.Encoding, auto: Any, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert plain_tiktoken.encode_ordinary(text) == ids
    if not any(name in text for name in tokenizer.special):
        assert auto.encode(text, add_special_tokens=True) == ids
        assert auto.decode(ids) == text


def test_three_ways_agree_on_the_corpus(
    tokenizer: Tokenizer, plain_tiktoken: tiktoken.Encoding, auto: Any, corpus: Path
) -> None:
    for document in iter_documents(corpus / "train"):
        ids = tokenizer.encode(document.text)
        assert plain_tiktoken.encode_ordinary(document.text) == ids == auto.encode(document.text)


@pytest.mark.parametrize("text", ["  a", "        a", "x != y , 'a' : 'b' .", "def f():\n\tif x:\n\t\treturn  1\n"])
def test_nothing_is_tidied_away(tokenizer: Tokenizer, auto: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text == auto.decode(auto.encode(text))


def test_hugging_face_normalises_as_we_do(tokenizer: Tokenizer, auto: Any) -> None:
    for text in ("e\u0301", "\u1100\u1161", "A\u030a", "\u212b"):
        assert auto.encode(text) == tokenizer.encode(text)


def test_saving_again_gives_the_same_bytes(tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path) -> None:
    for path in (tokenizer_folder, tokenizer_folder / "tokenizer.json"):
        again = Tokenizer.load(path)
        again.save(tmp_path / "again")
        for name in FILES:
            assert (tmp_path / "again" / name).read_bytes() == (tokenizer_folder / name).read_bytes(), name
    ranks_alone = Tokenizer.load(tokenizer_folder / RANK_FILE)
    assert ranks_alone.vocabulary.ranks == tokenizer.vocabulary.ranks
    assert ranks_alone.vocab_size == len(tokenizer.vocabulary.ranks) + 208


def test_special_tokens_of_hugging_face_are_ours(tokenizer: Tokenizer, auto: Any) -> None:
    assert auto.get_added_vocab() == tokenizer.special
    assert len(auto) == tokenizer.vocab_size
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.im_end_id, tokenizer.end_of_text_id)
    marked = "a<|im_start|>b<|im_end|>\u0338<|endoftext|>"
    assert auto.encode(marked) == tokenizer.encode(marked, allow_special=True)


def test_a_model_folder_keeps_the_tokenizer(tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path) -> None:
    """transformers chooses a tokenizer by the model's kind too; ours must come through unchanged."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the river，你好世界 24  miles's\n\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.im_end_id, tokenizer.end_of_text_id)


CONVERSATIONS = {
    "no system": [{"role": "user", "content": "你好"}],
    "empty system": [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}],
    "system": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
    "tools": [{"role": "system", "content": 'Tools: {"name": "add"}\n'}, {"role": "user", "content": "1+1"}],
    "tool result": [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "add(1, 1)"},
        {"role": "tool", "content": "2"},
    ],
    "three turns": [{"role": role, "content": f"{role} {turn}"} for turn in range(3) for role in ("user", "assistant")],
    "last turn assistant": [{"role": "user", "content": "the river"}, {"role": "assistant", "content": "好，是的。"}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [False, True])
def test_auto_tokenizer_renders_the_same_chatml(tokenizer: Tokenizer, auto: Any, name: str, prompt: bool) -> None:
    messages = CONVERSATIONS[name]
    text = render_conversation(messages, add_generation_prompt=prompt)
    assert auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt) == text
    ids = auto.apply_chat_template(messages, tokenize=True, add_generation_prompt=prompt, return_dict=False)
    if not any(message["content"] != message["content"].strip() for message in messages):
        assert ids == encode_conversation(tokenizer, messages, prompt)[0]


def test_content_that_begins_with_white_space_gets_other_ids_through_the_template(
    tokenizer: Tokenizer, auto: Any
) -> None:
    """The template's text is cut anew, so the line break after the role joins the content's own."""
    messages = [{"role": "user", "content": "\n\nthe"}]
    by_template = auto.apply_chat_template(messages, tokenize=True, return_dict=False)
    by_code = encode_conversation(tokenizer, messages)[0]
    assert by_template != by_code
    assert tokenizer.decode(by_template) == tokenizer.decode(by_code) == render_conversation(messages)


def test_the_template_refuses_an_unknown_role_too(auto: Any) -> None:
    with pytest.raises(Exception, match="unknown role: wizard"):
        auto.apply_chat_template([{"role": "wizard", "content": "x"}], tokenize=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": None}, "not normalised to NFC"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}, "not cut by one pattern"),
    ],
)
def test_a_tokenizer_json_that_would_give_other_ids_is_refused(
    tokenizer_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    data = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(data | change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_merges_out_of_order_are_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    data = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"].reverse()
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="order of its ids"):
        Tokenizer.load(tmp_path)
