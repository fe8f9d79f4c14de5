"""All benchmarks by name."""

from danlu.evaluation.tasks.choices import CEVAL, MMLU
from danlu.evaluation.tasks.code import HUMANEVAL, MBPP, MBPP_0SHOT
from danlu.evaluation.tasks.questions import Benchmark
from danlu.evaluation.tasks.reasoning import BBH, GSM8K, MATH
from danlu.evaluation.tasks.safety import SAFETY
from danlu.run.errors import UserError

BENCHMARKS = {
    benchmark.name: benchmark for benchmark in (MMLU, CEVAL, GSM8K, MATH, HUMANEVAL, MBPP, MBPP_0SHOT, BBH, SAFETY)
}


def chosen_benchmarks(names: tuple[str, ...], num_shots: int | None) -> list[Benchmark]:
    """The benchmarks named, each once; MBPP also without examples, as the recipe reports it, unless the number of
    examples is given. Raises UserError for a name that there is not."""
    chosen: dict[str, Benchmark] = {}
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(
                f"no benchmark is called {name!r}", where="--tasks", mend=f"There are {', '.join(BENCHMARKS)}"
            )
        chosen[name] = BENCHMARKS[name]
        if name == "mbpp" and num_shots is None:
            chosen[MBPP_0SHOT.name] = MBPP_0SHOT
    return list(chosen.values())
