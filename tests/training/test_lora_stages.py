"""Each stage that trains a given model does so by adapters alone: it learns, resumes, and leaves them beside the whole
model that they are merged into."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import danlu
from danlu.cli import main
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import generate_batch
from danlu.inference.generate import encode_prompt
from danlu.model.checkpoint import load_model, load_reward_model, save_model
from danlu.model.config import PROJECTIONS
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.metrics import MetricsLog, read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.config import DpoConfig, PairStepConfig, RewardConfig, SftConfig, StepConfig
from danlu.training.dpo import dpo
from danlu.training.lora_config import LoraConfig
from danlu.training.ppo import ppo
from danlu.training.ppo_config import PpoConfig
from danlu.training.reward import reward
from danlu.training.sft import sft

Write = Callable[[Path, Sequence[Sequence[tuple[str, str]]]], Path]
MakePpo = Callable[..., PpoConfig]

LORA = LoraConfig(rank=4, alpha=8.0)
IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Transformer], tiny_tokenizer_folder: Path, tmp_path_factory: Any) -> Path:
    tokenizer = Tokenizer.load(tiny_tokenizer_folder)
    folder: Path = tmp_path_factory.mktemp("base") / "model"
    ends = list(tokenizer.stop_ids), tokenizer.end_of_text_id
    save_model(folder, tiny_model(num_key_value_heads=2), tiny_tokenizer_folder, *ends)
    return folder


def sft_config(base: Path, folder: Path, write: Write, **changes: Any) -> SftConfig:
    twenty = [[("user", "hi" + " the river" * (index % 5)), ("assistant", "ok")] for index in range(20)]
    step = StepConfig(
        sequence_length=64, batch_size=4, micro_batch_size=2, max_steps=60, learning_rate=0.02, bf16=False,
        compile=False, checkpoint_every=10,
    )  # fmt: skip
    data = write(folder / "c.jsonl", twenty)
    start = SftConfig(model=base, data=data, out=folder / "sft", step=step, dropout=0.1, lora=LORA)
    return dataclasses.replace(start, **changes)


@pytest.fixture(scope="module")
def tuned(base: Path, write_conversations: Write, tmp_path_factory: Any) -> Path:
    return sft(sft_config(base, tmp_path_factory.mktemp("tuned"), write_conversations)).parent


def same(first: Path, second: Path) -> bool:
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_fine_tuning_by_adapters_learns_a_reply(tuned: Path) -> None:
    model, tokenizer = danlu.load(tuned / "model")
    assert tokenizer is not None
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "hi"}])
    (row,) = generate_batch(model, tokenizer.stop_ids, [prompt], SamplingConfig(temperature=0, max_new_tokens=20))
    assert (tokenizer.decode(row.output_ids), row.finish_reason) == ("ok", "stop")


def test_adapter_and_model_are_the_same_and_peft_opens_the_adapter(base: Path, tuned: Path) -> None:
    whole, by_adapter = danlu.load(tuned / "model")[0], danlu.load(tuned / "adapter")[0]
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tuned / "adapter"
    )
    with torch.no_grad():
        assert torch.equal(whole(IDS), by_adapter(IDS))
        # Weights of this size are far larger than those of a trained model, and so are the logits.
        torch.testing.assert_close(theirs(IDS).logits, whole(IDS), rtol=1e-5, atol=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned / "model"))
    moved = {name.split(".")[-2] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == set(PROJECTIONS), "adapters have changed something else"


def test_checkpoints_hold_the_adapters_alone_and_a_resumed_run_equals_an_uninterrupted_one(
    base: Path, tuned: Path, write_conversations: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = max((tuned / "checkpoints").glob("step-*"))
    assert all(".adapters." in name for name in load_file(newest / "model.safetensors"))
    write = MetricsLog.write

    def interrupted(log: MetricsLog, record: dict[str, Any]) -> None:
        write(log, record)
        if record["step"] == 25:
            raise KeyboardInterrupt

    config = sft_config(base, tmp_path, write_conversations)
    monkeypatch.setattr(MetricsLog, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sft(config)
    monkeypatch.setattr(MetricsLog, "write", write)
    sft(config)
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert same(config.out / name, tuned / name), name


def comparisons(path: Path) -> Path:
    """The better answer says `cold`, the worse one `bank`, each to 60 prompts."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"{number} river"}],
            "chosen": f"clear cold {number % 7}",
            "rejected": f"clear bank {number % 7}",
        }
        for number in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


PAIR_STEP = PairStepConfig(
    sequence_length=64, batch_size=8, micro_batch_size=2, max_steps=30, learning_rate=0.01, bf16=False, compile=False,
)  # fmt: skip


def test_a_reward_model_by_adapters(base: Path, tmp_path: Path) -> None:
    data = comparisons(tmp_path / "c.jsonl")
    reward(RewardConfig(model=base, data=data, out=tmp_path / "first", step=PAIR_STEP, lora=LORA, device="cpu"))
    figures = json.loads((tmp_path / "first" / "figures.json").read_text(encoding="utf-8"))
    assert figures["accuracy"]["value"] == 1.0
    # Its adapter, too, is a model that the stage goes on from.
    again = RewardConfig(
        model=tmp_path / "first" / "adapter", data=data, out=tmp_path / "second", lora=LORA, device="cpu",
        step=dataclasses.replace(PAIR_STEP, max_steps=1, learning_rate=1e-9),
    )  # fmt: skip
    reward(again)
    figures = json.loads((tmp_path / "second" / "figures.json").read_text(encoding="utf-8"))
    assert figures["before"]["value"] == 1.0
    with torch.no_grad():
        first, second = (load_reward_model(tmp_path / name / "model")(IDS) for name in ("first", "second"))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def test_dpo_by_adapters(base: Path, tmp_path: Path) -> None:
    data = comparisons(tmp_path / "c.jsonl")
    dpo(DpoConfig(model=base, data=data, out=tmp_path / "dpo", step=PAIR_STEP, lora=LORA, device="cpu"))
    history = read_jsonl(tmp_path / "dpo" / "metrics.jsonl")
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-4), "model and reference are equal at the first step"
    figures = json.loads((tmp_path / "dpo" / "figures.json").read_text(encoding="utf-8"))
    assert figures["accuracy"]["value"] >= 0.9
    assert not same(tmp_path / "dpo/model/model.safetensors", base / "model.safetensors")


def test_ppo_by_adapters_moves_policy_and_value_model_and_neither_of_what_they_share_weights_with(
    tiny_ppo: MakePpo, tmp_path: Path
) -> None:
    config = tiny_ppo(out=tmp_path / "ppo", max_steps=4, frozen_steps=1, lora=LORA)
    model = ppo(config)
    first, *_, last = read_jsonl(config.out / "metrics.jsonl")
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5), "a policy that has not learnt is its reference"
    assert abs(last["objective/kl"]) > 1e-4, "the reference has moved with the policy"
    learnt = load_file(max((config.out / "checkpoints").glob("step-*")) / "model.safetensors")
    assert {name.split(".")[0] for name in learnt} == {"policy", "value_model"}
    assert all(".adapters." in name or name == "value_model.score.weight" for name in learnt)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32), config.out / "adapter"
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, load_model(model)(IDS), rtol=1e-5, atol=1e-4)


def test_what_learns_whole_is_merged_and_a_tied_model_is_refused(
    base: Path, tiny_model: Callable[..., Transformer], write_conversations: Write, tiny_tokenizer_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    lora = dataclasses.replace(LORA, modules_to_save=("embed_tokens", "lm_head"))
    config = sft_config(base, tmp_path, write_conversations, lora=lora)
    config = dataclasses.replace(config, step=dataclasses.replace(config.step, max_steps=3))
    sft(config)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, config.out / "model"))
    moved = {name.split(".")[-2] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {*PROJECTIONS, "embed_tokens", "lm_head"}
    with torch.no_grad():
        whole, by_adapter = (danlu.load(config.out / name)[0](IDS) for name in ("model", "adapter"))
    assert torch.equal(whole, by_adapter)
    save_model(tmp_path / "tied", tiny_model(tie_word_embeddings=True), tiny_tokenizer_folder, [1], 1)
    with pytest.raises(UserError, match=r"lora\.modules_to_save: embedding and head of this model are one matrix"):
        sft(dataclasses.replace(config, model=tmp_path / "tied", out=tmp_path / "out"))


@pytest.mark.parametrize("kind", ["gguf", "a name on the hub"])
def test_whatever_opens_is_trained(
    base: Path, write_conversations: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    config = sft_config(base, tmp_path, write_conversations)
    model = tmp_path / "m.gguf"
    if kind == "gguf":
        assert main(["convert", str(base), str(model), "--to", "gguf", "--quantize", "q8_0"]) == 0
    else:
        model = Path("Qwen/Qwen2.5-0.5B")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(base))
    words = ["sft", "--model", str(model), "--data", str(config.data), "--out", str(config.out), "--device", "cpu"]
    words += ["--step.max-steps", "2", "--step.batch-size", "2", "--step.micro-batch-size", "2", "--step.no-compile"]
    words += ["--step.sequence-length", "64", "--lora.rank", "2"]
    assert main(words) == 0
    whole, by_adapter = (danlu.load(config.out / name)[0] for name in ("model", "adapter"))
    with torch.no_grad():
        assert torch.equal(whole(IDS), by_adapter(IDS))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora.rank", "-1"], "--lora.rank: rank cannot be negative"),
        (["--lora.rank", "4", "--optimizer.name", "muon"], "adapters are trained by AdamW"),
        (["--lora.rank", "4", "--lora.target-modules", "query"], "no projection 'query'; there are q_proj"),
        (["--lora.rank", "4", "--lora.alpha", "0"], "alpha must be positive"),
    ],
)
def test_values_that_fit_not_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sft", *words])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_ppo_by_adapters_has_no_rate_for_gains(tiny_ppo: MakePpo) -> None:
    with pytest.raises(ValueError, match="gain_learning_rate"):
        tiny_ppo(lora=LORA, gain_learning_rate=1e-3)
