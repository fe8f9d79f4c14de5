"""The few numbers at the head of the page.

In: the summary of a run. Out: plain values; those of stages not done yet are None.
"""

from danlu.report.chapters import Figures, total
from danlu.report.formatting import is_number
from danlu.report.labels import SKILLS, label
from danlu.report.learning import APART, average, below


def headline(summary: Figures) -> Figures:
    """What the templates show of the whole run."""
    return {**_size(summary), **_learnt(summary), **_aligned(summary), **_cost(summary)}


def _size(summary: Figures) -> Figures:
    corpus, comparisons = summary.get("corpus", {}), summary.get("comparisons", {})
    pairs = comparisons.get("counts", {})
    return {
        "parameters": summary.get("pretrain", {}).get("parameters"),
        "bytes": sum(item.get("bytes", 0) for item in summary.get("fetch", {}).get("sources", {}).values()) or None,
        "train_bytes": total(corpus.get("train", {}).get("bytes", {})) or None,
        "documents": corpus.get("documents_kept"),
        "documents_in": corpus.get("documents_in"),
        "conversations": summary.get("sft", {}).get("conversations"),
        "comparisons": sum(total(counts) for name in ("pmp", "reward") for counts in pairs.get(name, {}).values()),
    }


def _learnt(summary: Figures) -> Figures:
    """The language model, and the chat model before anything is aligned."""
    pretrain, found = summary.get("pretrain", {}), summary.get("evaluate", {})
    accuracy = found.get("accuracy", {})
    after = {name: value for name, value in accuracy.get("after", {}).items() if name not in APART and is_number(value)}
    worst = min(after, key=lambda name: after[name], default=None)
    ngram = pretrain.get("byte_5gram_bits_per_byte")
    return {
        "bits_per_byte": pretrain.get("bits_per_byte"),
        "ngram": ngram,
        "below": below(pretrain.get("bits_per_byte"), ngram),
        "accuracy": average(after),
        "accuracy_before": average(accuracy.get("before", {})),
        "num_skills": len(after),
        "worst": (label(SKILLS, worst)[0], after[worst]) if worst else None,
        "refusal": found.get("refusal", {}),
    }


def _aligned(summary: Figures) -> Figures:
    """How well the last reward model judges, and what PPO gains by it."""
    ppo = summary.get("ppo", {})
    return {
        "reward": summary.get("reward") or summary.get("pmp") or {},
        "ppo": "ppo" in summary,
        "win_rate": ppo.get("win_rate"),
        "kl": ppo.get("kl"),
        "stopped": ppo.get("stopped"),
        "accuracy_aligned": average(ppo.get("accuracy", {})),
    }


def _cost(summary: Figures) -> Figures:
    seconds = [values["seconds"] for values in summary.values() if is_number(values.get("seconds"))]
    memory = [values["peak_memory_mb"] for values in summary.values() if is_number(values.get("peak_memory_mb"))]
    return {"seconds": sum(seconds), "memory": max(memory, default=None)}
