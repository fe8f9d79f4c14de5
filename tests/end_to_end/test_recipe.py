"""Raw pages to a reply: the demo's recipe with small numbers, run as a user runs it."""

import html
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.run.files import digest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "alignment"
STAGES = (
    "perplexity", "quality", "corpus", "tokenizer", "tokens", "pretrain", "conversations", "sft", "responses",
    "comparisons", "pmp", "reward", "ppo", "evaluate",
)  # fmt: skip
SMALL = [
    "--tokenizer.vocab-size", "700", "--tokenizer.num-extra-special", "0",
    "--pretrain.model.hidden-size", "32", "--pretrain.model.intermediate-size", "64",
    "--pretrain.model.num-hidden-layers", "2", "--pretrain.model.num-attention-heads", "2",
    "--pretrain.model.num-key-value-heads", "2", "--pretrain.step.sequence-length", "192",
    "--pretrain.step.max-steps", "12", "--pretrain.step.warmup-steps", "2", "--pretrain.step.checkpoint-every", "3",
    "--pretrain.step.batch-size", "4", "--pretrain.step.micro-batch-size", "4", "--pretrain.step.no-compile",
    "--conversations.num-conversations", "300", "--conversations.test-per-skill", "3",
    "--conversations.num-alignment", "400",
    "--sft.step.sequence-length", "192", "--sft.step.max-steps", "8", "--sft.step.warmup-steps", "2",
    "--sft.step.batch-size", "4", "--sft.step.micro-batch-size", "4", "--sft.step.checkpoint-every", "3",
    "--sft.step.no-compile", "--evaluate.max-new-tokens", "4",
    "--responses.num-prompts", "24", "--responses.num-responses", "2", "--responses.prompts-at-once", "8",
    "--responses.sampling.max-new-tokens", "8",
    "--comparisons.num-pmp", "300", "--comparisons.num-reward", "100",
    *(
        word
        for stage in ("pmp", "reward")
        for word in (
            f"--{stage}.step.sequence-length", "192", f"--{stage}.step.batch-size", "40",
            f"--{stage}.step.micro-batch-size", "4", f"--{stage}.step.warmup-steps", "2",
            f"--{stage}.step.checkpoint-every", "2", f"--{stage}.step.no-compile",
        )
    ),
    "--ppo.max-steps", "6", "--ppo.frozen-steps", "2", "--ppo.checkpoint-every", "2", "--ppo.sequence-length", "192",
    "--ppo.micro-batch-size", "4", "--ppo.pretrain-batch-size", "4", "--ppo.rollout.queries", "4",
    "--ppo.rollout.max-new-tokens", "8", "--ppo.samples-every", "2",
]  # fmt: skip


def command(run: Path) -> list[str]:
    return [sys.executable, "-m", "danlu.cli", "run", str(ROOT / "recipes" / "demo.toml"), "--out", str(run),
            *SMALL, "--stage", *STAGES]  # fmt: skip


def danlu(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "danlu.cli", *words], input=stdin, text=True, capture_output=True, timeout=300
    )


SOURCES = {
    "zh": ("peoples-daily", "novel", "chinese-web"),
    "en": ("django-docs", "django-docs", "english-web"),
}
"""Where the texts and pages of a language lie: the sources that the demo's recipe names."""


NAVIGATION = {
    "zh": "首页 新闻 体育 娱乐 财经 汽车 房产 教育 登录 注册 关于我们 联系我们 网站地图 版权所有 不得转载",
    "en": "Home News Sports Business Markets Weather Sign in Register About us Contact us Privacy policy Terms of use",
}


def make_raw_folder(run: Path) -> None:
    """Pages and texts in both languages, as the fetch stage would leave them."""
    if not SHARED.is_dir():
        pytest.skip("the small real texts that lie beside the project are not here")
    for language in ("zh", "en"):
        records = json.loads((SHARED / f"alpaca_{language}_demo.json").read_text(encoding="utf-8"))
        texts = [record["output"] for record in records if len(record["output"]) > 200][:120]
        raw = run / "fetch" / "raw"
        for source in SOURCES[language]:
            (raw / source).mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts):
            if number % 2:
                (raw / SOURCES[language][number % 4 // 2] / f"{number}.txt").write_text(text, encoding="utf-8")
            else:
                folder = raw / SOURCES[language][2]
                body = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
                main = f"<nav>{NAVIGATION[language]}</nav><main>{body}</main>"
                page = f"<html><head><meta charset=utf-8></head><body>{main}</body></html>"
                (folder / f"{number}.html").write_text(page, encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("end_to_end") / "run"
    make_raw_folder(run)
    result = subprocess.run(command(run), text=True, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f" chat {run}" in result.stdout
    return run


def products(run: Path) -> dict[str, str]:
    """What must be the same whatever happened on the way: every stage's product and its learning curve."""
    found = {}
    for stage in STAGES:
        record = json.loads((run / stage / "stage.json").read_text())
        if stage != "evaluate":
            found[stage] = digest(run / stage / record["product"])
    for stage in ("pretrain", "sft", "pmp", "reward", "ppo"):
        lines = (run / stage / "metrics.jsonl").read_text().splitlines()
        key = "objective/reward" if stage == "ppo" else "loss"
        found[f"{stage} losses"] = str([json.loads(line)[key] for line in lines])
    return found


def test_the_summary_holds_the_figures_of_every_stage(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    corpus = summary["corpus"]
    assert corpus["documents_in"] == corpus["documents_kept"] + sum(corpus["dropped"].values()) == 240
    assert 1 < summary["pretrain"]["bits_per_byte"] < 9
    assert 1 < summary["pretrain"]["byte_5gram_bits_per_byte"] < 9
    assert set(summary["sft"]["accuracy"]) == {"before", "after"}
    assert len(summary["sft"]["accuracy"]["after"]) == 9
    for figure in ("accuracy", "length_baseline_accuracy", "bag_of_words_accuracy"):
        assert set(summary["reward"][figure]) == {"value", "low", "high"}
    assert 0 <= summary["ppo"]["win_rate"]["low"] <= summary["ppo"]["win_rate"]["high"] <= 1
    assert summary["ppo"]["kl"] >= 0
    assert set(summary["ppo"]["bits_per_byte"]) == {"before", "after"}
    for stage in STAGES:
        assert summary[stage]["seconds"] > 0
        assert summary[stage]["peak_memory_mb"] > 0
    assert (finished / "report.html").stat().st_size > 10_000


def test_a_second_run_skips_what_is_complete(finished: Path) -> None:
    before = products(finished)
    result = subprocess.run(command(finished), text=True, capture_output=True, timeout=120)
    assert result.returncode == 0
    assert result.stderr.count("complete, skipped") == len(STAGES)
    assert products(finished) == before


def test_the_model_chats_and_continues(finished: Path) -> None:
    model = str(finished / "sft" / "model")
    chat = danlu("chat", model, "--max-new-tokens", "4", stdin="你好\n/quit\n")
    assert chat.returncode == 0, chat.stderr
    text = danlu("generate", model, "--max-new-tokens", "3", "--temperature", "0", stdin="第一行\n第二行")
    assert text.returncode == 0, text.stderr
    assert "Traceback" not in chat.stderr + text.stderr


def test_two_runs_in_one_folder_are_refused_in_one_line(finished: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys,time;from pathlib import Path;from danlu.run.folder import locked\n"
         "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)", str(finished)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        result = subprocess.run(command(finished), text=True, capture_output=True, timeout=60)
    finally:
        holder.kill()
        holder.wait()
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "another danlu" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 4, 6, 8, 10, 12, 14, 17, 20, 24, 28, 32, 36, 40])
def test_a_run_killed_at_any_point_and_started_again_ends_with_the_same_products(
    finished: Path, tmp_path: Path, seconds: float
) -> None:
    run = tmp_path / "run"
    make_raw_folder(run)
    victim = subprocess.Popen(
        command(run), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    result = subprocess.run(command(run), text=True, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert products(run) == products(finished)
