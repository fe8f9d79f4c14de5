"""What a model has learnt: skills, benchmarks, code in a sandbox. The doors are imported when first asked for."""

from typing import Any

DOORS = {
    "run_program": "danlu.evaluation.sandbox",
    "judge_code": "danlu.evaluation.code_verdict",
    "extract_answer": "danlu.evaluation.answers.extract",
    "math_equal": "danlu.evaluation.answers.mathematics",
}


def __getattr__(name: str) -> Any:
    """`run_program`, `judge_code`, `extract_answer`, `math_equal`."""
    if name not in DOORS:
        raise AttributeError(f"module 'danlu.evaluation' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(DOORS[name]), name)
