"""Deliberate mistakes in PPO, and the tests that catch them: `python tests/mutations.py`.

Each mistake is an exact replacement in a copy of the sources, outside the tree; the tests that should notice it are run
on the copy. Prints a table of what caught what. Exit status 1 where a mistake is not caught, or where its text is no
longer found once in the source. `python tests/mutations.py WORD` tries the mistakes whose name holds the word.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

MATH = "tests/training/test_ppo_math.py"
STEP = "tests/training/test_ppo.py"
RUN = "tests/training/test_ppo_run.py"
LEARNS = "tests/training/test_ppo_learns.py"
RESUME = "tests/invariants/test_ppo_resume.py"
WIN_RATE = "tests/evaluation/test_win_rate.py"


@dataclass(frozen=True)
class Mistake:
    """`right` becomes `wrong` in the file `path` of the package; `tests` are run until one fails."""

    name: str
    path: str
    right: str
    wrong: str
    tests: tuple[str, ...]


MISTAKES = [
    # The policy that is trained is the one that sampled
    Mistake(
        "temperature not divided out in training",
        "training/ppo_math.py",
        "torch.float32)) / temperature",
        "torch.float32)) / temperature**0",
        (STEP,),
    ),
    Mistake(
        "temperature when drawing alone, not in the ratio",
        "training/experience.py",
        "nuclei.rows, nuclei.ids, temperature)",
        "nuclei.rows, nuclei.ids, 1.0)",
        (STEP,),
    ),
    Mistake(
        "nucleus ignored in training",
        "training/experience.py",
        "if nuclei.rows is None or nuclei.ids is None:",
        "if True:",
        (STEP,),
    ),
    Mistake(
        "nucleus ignored when drawing",
        "training/experience.py",
        "temperature=config.temperature, top_p=config.top_p, seed=seed",
        "temperature=config.temperature, top_p=1.0, seed=seed",
        (STEP,),
    ),
    Mistake(
        "KL penalty between filtered probabilities",
        "training/experience.py",
        "logprobs=token_logprobs(logits, rows.tokens, temperature)",
        "logprobs=drawn_logprobs(logits, rows, nuclei, temperature)",
        (STEP,),
    ),
    Mistake(
        "reference is the policy itself",
        "training/ppo.py",
        "policy = learner(reference, config.lora, config.seed, keeps_model=True)",
        "policy = reference",
        (RUN,),
    ),
    # Places
    Mistake(
        "reward placed a token early",
        "training/ppo_math.py",
        "mask.sum(-1, keepdim=True) - 1  #",
        "mask.sum(-1, keepdim=True) - 2  #",
        (STEP,),
    ),
    Mistake(
        "reward pooled a token early",
        "training/experience.py",
        "models.reward_forward.rows(rows), rows.ends)",
        "models.reward_forward.rows(rows), rows.ends - 1)",
        (STEP,),
    ),
    Mistake(
        "values read a token late",
        "training/experience.py",
        "models.value_forward.rows(rows), rows.states)",
        "models.value_forward.rows(rows), (rows.states + 1).clamp_max(rows.input_ids.numel() - 1))",
        (STEP,),
    ),
    Mistake(
        "values learnt a token late",
        "training/ppo_update.py",
        "models.value_model.at(hidden, micro.rows.states)",
        "models.value_model.at(hidden, (micro.rows.states + 1).clamp_max(micro.rows.input_ids.numel() - 1))",
        (STEP,),
    ),
    Mistake(
        "second answer predicted from the end of the first",
        "model/branches.py",
        "states[-1][0] = place + last_of_prompt",
        "pass",
        (STEP,),
    ),
    Mistake(
        "answers see one another",
        "model/attention.py",
        "visible &= (branch_ids[:, None, :] == 0) | (branch_ids[:, :, None] == branch_ids[:, None, :])",
        "pass",
        (STEP,),
    ),
    Mistake(
        "end token not learnt",
        "inference/engine.py",
        "return self.output_ids if self.stop_id is None else [*self.output_ids, self.stop_id]",
        "return self.output_ids or [self.stop_id]",
        (STEP,),
    ),
    # Masks and means
    Mistake(
        "padding counted in the mean",
        "training/ppo_math.py",
        "torch.where(mask, values, 0.0).sum() / mask.sum()",
        "torch.where(mask, values, 0.0).sum() / mask.numel()",
        (STEP,),
    ),
    Mistake(
        "mask left out of the policy's loss",
        "training/ppo_math.py",
        "loss = torch.where(mask, torch.maximum(plain, clipped), 0.0).sum()",
        "loss = torch.maximum(plain, clipped).sum()",
        (MATH,),
    ),
    Mistake(
        "what the padding is worth feeds the last token",
        "training/ppo_math.py",
        "    values = torch.where(mask, values, 0.0)\n    advantages = torch.zeros_like(values)",
        "    advantages = torch.zeros_like(values)",
        (MATH,),
    ),
    Mistake(
        "policy's loss a mean of means over micro-batches",
        "training/ppo_update.py",
        "micro.mask, config.cliprange\n        )\n        (total / num_tokens).backward()",
        "micro.mask, config.cliprange\n        )\n        (total / micro.mask.sum() / len(minibatch)).backward()",
        (STEP,),
    ),
    # Rewards, advantages, losses
    Mistake(
        "KL rewarded instead of paid for",
        "training/ppo_math.py",
        "torch.where(mask, -kl_coef * kl_k1(",
        "torch.where(mask, kl_coef * kl_k1(",
        (STEP,),
    ),
    Mistake(
        "mean reward not taken off",
        "training/experience.py",
        "goals = statistics.normalise(scores, divide=config.normalise_deviation)",
        "goals = scores",
        (STEP,),
    ),
    Mistake(
        "finished answers pay for a missing end",
        "training/experience.py",
        'sequence.finish_reason != "stop" for sequence in sequences',
        'sequence.finish_reason == "stop" for sequence in sequences',
        (STEP,),
    ),
    Mistake(
        "value learns whitened returns",
        "training/experience.py",
        '"returns": returns,',
        '"returns": whiten(advantages, mask) + values,',
        (STEP,),
    ),
    Mistake(
        "policy's clip missing",
        "training/ppo_math.py",
        "-advantages * ratio.clamp(1 - cliprange, 1 + cliprange)",
        "-advantages * ratio",
        (STEP,),
    ),
    Mistake(
        "value's clip missing",
        "training/ppo_math.py",
        "clipped = values.clamp(old_values - cliprange, old_values + cliprange)",
        "clipped = values",
        (STEP,),
    ),
    Mistake(
        "advantages with the wrong sign",
        "training/ppo_math.py",
        "plain, clipped = -advantages * ratio, -advantages * ratio.clamp(",
        "plain, clipped = advantages * ratio, advantages * ratio.clamp(",
        (LEARNS,),
    ),
    Mistake(
        "the reward never reaches the first tokens",
        "training/ppo_math.py",
        "delta + gamma * lam * following_advantage, 0.0)",
        "delta, 0.0)",
        (STEP,),
    ),
    # The pretraining gradient
    Mistake(
        "pretraining gradient without its coefficient",
        "training/ppo_update.py",
        "parameter.grad.mul_(coefficient).add_(gradient)",
        "parameter.grad.add_(gradient)",
        (STEP,),
    ),
    Mistake(
        "pretraining gradient in place of PPO's",
        "training/ppo_update.py",
        "parameter.grad.mul_(coefficient).add_(gradient)",
        "parameter.grad.mul_(coefficient)",
        (STEP,),
    ),
    Mistake(
        "pretraining gradient a mean of means",
        "training/step.py",
        "(loss / num_targets).backward()",
        "(loss / batch.num_targets / len(batches)).backward()",
        (STEP,),
    ),
    Mistake(
        "pretraining text begins anew after a stop",
        "training/ppo.py",
        'self.pretraining.restore(saved["pretraining"])',
        "pass",
        (RESUME,),
    ),
    # What is said of the result
    Mistake(
        "wins counted for the model before",
        "evaluation/win_rate.py",
        "0.5 * (int(new) - int(old))",
        "0.5 * (int(old) - int(new))",
        (WIN_RATE,),
    ),
    Mistake(
        "KL of the result the wrong way round",
        "evaluation/win_rate.py",
        "response_kl(after, before, drawn",
        "response_kl(before, after, drawn",
        (WIN_RATE,),
    ),
    # Steps
    Mistake(
        "frozen steps ignored",
        "training/ppo.py",
        "if self.steps < config.frozen_steps:",
        "if False:",
        (RUN,),
    ),
    Mistake(
        "policy at the value model's rate",
        "training/ppo.py",
        "rate = config.policy_learning_rate *",
        "rate = config.value_learning_rate *",
        (RUN,),
    ),
    Mistake(
        "the gains' own rate has no group to go to",
        "training/ppo.py",
        "gains_apart=True",
        "gains_apart=False",
        (RUN,),
    ),
    Mistake(
        "every step draws alike",
        "training/ppo.py",
        'derive_seed(config.seed, "rollout", self.steps)',
        'derive_seed(config.seed, "rollout")',
        (RUN,),
    ),
    Mistake(
        "running mean forgotten after a stop",
        "training/ppo.py",
        'self.statistics = RunningStatistics(**saved["statistics"])',
        "pass",
        (RESUME,),
    ),
]


def run_tests(copy: Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails on the copy; None where all pass."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) \S+?::(.+?)(?: - |$)", result.stdout, re.MULTILINE)
    if result.returncode != 1 or not found:
        raise RuntimeError(f"the tests could not be run:\n{result.stdout[-3000:]}{result.stderr[-1000:]}")
    return found[1]


def attempt(copy: Path, mistake: Mistake) -> str | None:
    """What catches the mistake; None where nothing does."""
    source = copy / "danlu" / mistake.path
    text = source.read_text(encoding="utf-8")
    count = text.count(mistake.right)
    if count != 1:
        raise ValueError(f"danlu/{mistake.path} holds the text {count} times, not once: {mistake.right!r}")
    source.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
    try:
        return run_tests(copy, mistake.tests)
    finally:
        source.write_text(text, encoding="utf-8")


def main(word: str) -> int:
    chosen = [mistake for mistake in MISTAKES if word in mistake.name]
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("danlu", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        every_test = tuple(dict.fromkeys(test for mistake in chosen for test in mistake.tests))
        if failed := run_tests(copy, every_test):
            print(f"without any mistake {failed} fails already")
            return 1
        print("| mistake | caught by | seconds |\n|---|---|---|")
        for mistake in chosen:
            started = time.perf_counter()
            try:
                caught = attempt(copy, mistake)
            except ValueError as error:
                caught = None
                print(error, file=sys.stderr)
            if caught is None:
                wrong.append(mistake.name)
            print(f"| {mistake.name} | {caught or '**nothing**'} | {time.perf_counter() - started:.0f} |", flush=True)
    print(f"{len(chosen) - len(wrong)} of {len(chosen)} mistakes were caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
