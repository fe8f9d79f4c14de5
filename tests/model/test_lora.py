"""Adapters: the same numbers as PEFT's, both ways, and merged to the same bits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import danlu
from danlu.cli import main
from danlu.evaluation.benchmark import has_chat_template
from danlu.model.checkpoint import hf_tensors, load_model, load_reward_model, load_with_new_score, save_model
from danlu.model.config import PROJECTIONS
from danlu.model.lora import LoraLinear, adapted, adapter_tensors, merge, save_adapter
from danlu.model.place import name_of, tokenizer_place
from danlu.model.transformer import Backbone, ScalarModel, Transformer
from danlu.run.errors import UserError
from danlu.run.files import digest
from danlu.tokenizer.bpe import Tokenizer

MakeModel = Callable[..., Transformer]

IDS = torch.arange(3, 43).view(2, 20)
SOME = ("q_proj", "v_proj", "o_proj", "up_proj")


@pytest.fixture(scope="module")
def base(tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with fewer key and value heads than query heads, so that the three projections differ in size."""
    folder, tokenizer = tmp_path_factory.mktemp("lora") / "base", Tokenizer.load(tiny_tokenizer_folder)
    model = tiny_model(num_attention_heads=4, num_key_value_heads=2)
    save_model(folder, model, tiny_tokenizer_folder, list(tokenizer.stop_ids), tokenizer.end_of_text_id)
    return folder


def stirred_adapters(model: Backbone, seed: int = 5) -> None:
    """Adapters as if they had learnt: none of their matrices is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name or name == "score.weight":
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def learnt(base: Path, targets: tuple[str, ...] = PROJECTIONS, rank: int = 3, alpha: float = 5.0) -> Transformer:
    model = adapted(load_model(base), targets, rank, alpha, torch.Generator().manual_seed(1)).eval()
    stirred_adapters(model)
    return model


def test_new_adapters_change_nothing_and_alone_learn(base: Path) -> None:
    plain = load_model(base)
    model = adapted(plain, PROJECTIONS, 3, 5.0, torch.Generator().manual_seed(1))
    assert torch.equal(model(IDS), plain(IDS))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if ".adapters." in name}
    assert len(learning) == 2 * len(PROJECTIONS) * model.config.num_hidden_layers
    assert {parameter.data_ptr() for parameter in plain.parameters()} <= {
        parameter.data_ptr() for parameter in model.parameters()
    }, "the weights are shared"
    model(IDS).sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("targets", [PROJECTIONS, SOME])
def test_peft_opens_what_was_saved_and_merges_it_to_the_same_bits(
    base: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    model = learnt(base, targets)
    save_adapter(tmp_path / "adapter", model, base, targets, 3, 5.0)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
    )
    with torch.no_grad():
        ours = model(IDS)
        torch.testing.assert_close(theirs(IDS).logits, ours, rtol=0, atol=2e-5)
        assert (ours - load_model(base)(IDS)).abs().max() > 0.1, "the adapters matter"
    merge(model)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in hf_tensors(model).items():
        assert torch.equal(tensor, merged[name]), name
    assert torch.equal(
        hf_tensors(danlu.load(tmp_path / "adapter")[0])["model.norm.weight"], merged["model.norm.weight"]
    )
    read = hf_tensors(load_model(tmp_path / "adapter"))
    assert all(torch.equal(tensor, read[name]) for name, tensor in hf_tensors(model).items())


def test_embedding_and_head_that_learn_whole_go_with_the_adapter(base: Path, tmp_path: Path) -> None:
    plain = load_model(base)
    before = plain.embed_tokens.weight.clone()
    model = adapted(plain, SOME, 2, 4.0, torch.Generator().manual_seed(1), ["embed_tokens", "lm_head"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(plain.embed_tokens.weight, before), "the base has moved"
    save_adapter(tmp_path / "adapter", model, base, SOME, 2, 4.0)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, model(IDS), rtol=0, atol=2e-5)
        torch.testing.assert_close(load_model(tmp_path / "adapter")(IDS), model(IDS), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
        {"target_modules": list(PROJECTIONS), "rank_pattern": {"down_proj": 2}, "lora_dropout": 0.1},
        {"target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["gate_proj"], "layers_to_transform": [1]},
    ],
    ids=["two", "rank-stabilised", "ranks", "head", "one-layer"],
)
def test_an_adapter_that_peft_has_made_is_opened_and_converted(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    torch.manual_seed(2)
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, **settings),
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.1 * torch.randn(parameter.shape)
        wanted = model(IDS).logits
    model.save_pretrained(tmp_path / "theirs")
    ours, tokenizer = danlu.load(tmp_path / "theirs")
    assert tokenizer is not None, "the base's"
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), wanted, rtol=0, atol=2e-5)
        assert (wanted - load_model(base)(IDS)).abs().max() > 0.05
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "whole"), "--to", "hf"]) == 0
    assert torch.equal(danlu.load(tmp_path / "whole")[0](IDS), ours(IDS))


@pytest.mark.parametrize("shape", [{"family": "Qwen3", "head_dim": 8}, {"family": "Llama"}], ids=str)
def test_other_families(tiny_model: MakeModel, tmp_path: Path, shape: dict[str, Any]) -> None:
    save_model(tmp_path / "base", tiny_model(num_key_value_heads=2, **shape), None, [1], 1)
    model = learnt(tmp_path / "base")
    save_adapter(tmp_path / "adapter", model, tmp_path / "base", PROJECTIONS, 3, 5.0)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32), tmp_path / "adapter"
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, model(IDS), rtol=0, atol=2e-5)
        torch.testing.assert_close(load_model(tmp_path / "adapter")(IDS), model(IDS), rtol=0, atol=2e-5)


def test_a_reward_model_s_head_goes_with_its_adapter(
    base: Path, tiny_scalar_model: Callable[..., ScalarModel], tmp_path: Path
) -> None:
    shape = load_model(base).config
    head = tiny_scalar_model(num_attention_heads=4, num_key_value_heads=2)
    head.load_state_dict({**load_model(base).state_dict(), "score.weight": head.score.weight}, strict=False)
    assert head.config == shape
    model = adapted(head, SOME, 2, 4.0, torch.Generator().manual_seed(1)).eval()
    before = head.score.weight.clone()
    stirred_adapters(model)
    assert torch.equal(head.score.weight, before), "a value model's head is not its reward model's"
    save_adapter(tmp_path / "adapter", model, base, SOME, 2, 4.0)
    with torch.no_grad():
        assert torch.equal(load_reward_model(tmp_path / "adapter").score.weight, model.score.weight)
        torch.testing.assert_close(load_reward_model(tmp_path / "adapter")(IDS), model(IDS), rtol=0, atol=2e-5)
        theirs = peft.PeftModel.from_pretrained(
            transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32),
            tmp_path / "adapter",
        )
        # Transformers takes the score at the last id that is no padding.
        torch.testing.assert_close(theirs(IDS[:1]).logits[:, 0], model(IDS[:1])[:, -1], rtol=0, atol=2e-5)
    with pytest.raises(UserError, match="this is a reward model"):
        danlu.load(tmp_path / "adapter")


def test_merging_in_bfloat16_rounds_once(base: Path) -> None:
    plain = load_model(base, torch.bfloat16)
    model = adapted(plain, PROJECTIONS, 3, 5.0, torch.Generator().manual_seed(1))
    stirred_adapters(model)
    tensors = adapter_tensors(model)
    before = {name: tensor.clone() for name, tensor in hf_tensors(plain).items()}
    merge(model)
    for name, tensor in hf_tensors(model).items():
        low = tensors.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        if low is not None:
            up = tensors[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
            exact = before[name].double() + (up.double() @ low.double()) * 5 / 3
            step = torch.finfo(torch.bfloat16).eps * exact.abs().clamp_min(1e-3)
            assert ((tensor.double() - exact).abs() <= step / 2 * 1.001 + 1e-6).all(), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in hf_tensors(plain).items()), "the base has moved"


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]
EMBEDDING = "base_model.model.model.embed_tokens"
PART = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values, _: values.pop("base_model_name_or_path"), "base_model_name_or_path is missing"),
        (lambda values, _: values.update(base_model_name_or_path="/no/such"), "no such model folder"),
        (lambda values, _: values.update(use_dora=True), "use_dora is True"),
        (lambda values, _: values.update(peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda values, _: values.update(alpha_pattern={"q_proj": 3}), "alpha_pattern is"),
        (lambda values, _: values.update(bias="all"), "bias is 'all'"),
        (lambda values, _: values.update(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (lambda values, _: values.update(alora_invocation_tokens=[5]), "alora_invocation_tokens is"),
        (lambda values, _: values.update(a_setting_to_come={"x": 1}), "a_setting_to_come is"),
        (lambda values, _: values.pop("peft_type"), "peft_type is None"),
        (lambda values, _: values.update(lora_alpha=None), "lora_alpha must be a number"),
        (lambda _, tensors: tensors.pop(f"{PART}.lora_B.weight"), r"`.*q_proj\.lora_B\.weight` is missing"),
        (lambda _, tensors: tensors.pop(f"{PART}.lora_A.weight"), r"`.*q_proj\.lora_A\.weight` is missing"),
        (
            lambda _, tensors: tensors.update({f"{PART}.lora_A.weight": torch.ones(3, 7)}),
            r"`.*lora_A\.weight` is \(3, 7\), its base asks for \(3, 32\)",
        ),
        (
            lambda _, tensors: tensors.update({f"{EMBEDDING}.lora_embedding_A": torch.ones(2, 2)}),
            f"its base has nothing that `{EMBEDDING}.lora_embedding_A` belongs to",
        ),
        (lambda _, tensors: tensors.update({f"{PART}.lora_A.weight": torch.ones(())}), r"is \(\), its base asks for"),
        (
            lambda _, tensors: tensors.update(
                {f"{PART}.lora_A.weight": torch.ones(0, 32), f"{PART}.lora_B.weight": torch.ones(32, 0)}
            ),
            r"is \(0, 32\), its base asks for \(1, 32\)",
        ),
        (
            lambda _, tensors: tensors.update({"base_model.model.model.norm.lora_A.weight": torch.ones(1, 32)}),
            "its base has nothing that",
        ),
        (lambda _, tensors: tensors.clear() or tensors.update(other=torch.ones(2)), "holds no adapter"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_of_its_base_is_refused_in_one_line(
    base: Path, tmp_path: Path, change: Change, message: str
) -> None:
    folder = tmp_path / "adapter"
    save_adapter(folder, learnt(base), base, PROJECTIONS, 3, 5.0)
    values = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "adapter_model.safetensors")
    change(values, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        danlu.load(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_without_weights_or_cut_short_is_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    save_adapter(folder, learnt(base), base, PROJECTIONS, 3, 5.0)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        danlu.load(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="Its weights are pickles"):
        danlu.load(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file"):
        danlu.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no such model folder"):
        danlu.load(folder)


def test_an_adapter_of_an_adapter_is_opened_and_one_of_itself_is_not(base: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "first", learnt(base), base, PROJECTIONS, 3, 5.0)
    second = learnt(tmp_path / "first", SOME)
    save_adapter(tmp_path / "second", second, tmp_path / "first", SOME, 3, 5.0)
    model, tokenizer = danlu.load(tmp_path / "second")
    assert tokenizer is not None
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), second(IDS), rtol=0, atol=2e-5)
        assert (model(IDS) - danlu.load(tmp_path / "first")[0](IDS)).abs().max() > 0.1
    path = tmp_path / "first" / "adapter_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "base_model_name_or_path": str(tmp_path / "second")}), encoding="utf-8")
    with pytest.raises(UserError, match="names itself as its base"):
        danlu.load(tmp_path / "second")
    assert digest(tmp_path / "second") != digest(tmp_path / "first"), "a stage asks for these before it opens a model"


def test_what_is_made_with_an_adapter_is_made_anew_when_its_base_has_changed(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    save_adapter(tmp_path / "adapter", learnt(base), tmp_path / "base", PROJECTIONS, 3, 5.0)
    before = digest(tmp_path / "adapter")
    assert digest(tmp_path / "adapter") == before
    save_model(tmp_path / "base", learnt_and_merged(base), base, [1], 1)
    assert digest(tmp_path / "adapter") != before


def learnt_and_merged(base: Path) -> Transformer:
    model = learnt(base)
    merge(model)
    return model


def test_a_whole_model_beside_a_forgotten_adapter_config_is_a_model(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert torch.equal(danlu.load(tmp_path / "m")[0](IDS), load_model(base)(IDS))


def test_a_model_of_the_hub_s_cache_is_called_by_its_name(base: Path, tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "1a2b"
    shutil.copytree(base, place)
    assert name_of(place) == "Qwen/Qwen2.5-0.5B"
    assert name_of(base) == str(base)


def test_a_reward_model_is_made_of_an_adapter_that_holds_a_head_for_words(base: Path, tmp_path: Path) -> None:
    model = adapted(load_model(base), SOME, 2, 4.0, torch.Generator().manual_seed(1), ["lm_head"]).eval()
    stirred_adapters(model)
    save_adapter(tmp_path / "adapter", model, base, SOME, 2, 4.0)
    with torch.no_grad():
        states = load_with_new_score(tmp_path / "adapter", torch.Generator().manual_seed(1)).hidden_states(IDS)
        torch.testing.assert_close(states, model.hidden_states(IDS), rtol=0, atol=2e-5)


def test_a_head_of_an_adapter_whose_base_has_none_of_its_own_is_never_left_out(
    base: Path, tiny_model: MakeModel, tmp_path: Path
) -> None:
    model = adapted(load_model(base), SOME, 2, 4.0, torch.Generator().manual_seed(1), ["lm_head"])
    tied = tiny_model(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    save_model(tmp_path / "tied", tied, None, [1], 1)
    save_adapter(tmp_path / "adapter", model, tmp_path / "tied", SOME, 2, 4.0)
    with pytest.raises(UserError, match=r"its base has nothing that `base_model\.model\.lm_head\.weight` belongs to"):
        danlu.load(tmp_path / "adapter")


def test_an_adapter_has_the_chat_template_of_its_base(base: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", learnt(base), base, PROJECTIONS, 3, 5.0)
    assert has_chat_template(tokenizer_place(tmp_path / "adapter"))
