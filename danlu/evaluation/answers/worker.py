"""The process that computes: pairs of answers in, verdicts out, one JSON line each.

In, on standard input: canonical texts as `{"reply": …, "gold": …, "by_text": …, "cpu_s": …}`. Out, on standard output:
a line `true` when it is ready, then a bool a pair. A pair that takes more than `cpu_s` seconds of CPU time ends the
process, as does the end of its input.
"""

import json
import math
import os
import resource
import sys

MOST_MEMORY = 2 << 30
"""Bytes of address space. Our choice: sympy needs a tenth, a tower of powers any amount."""
RECURSION = 3_000


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    sys.setrecursionlimit(RECURSION)
    verdicts = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Libraries may print; nothing but verdicts may stand between verdicts.
    os.dup2(2, 1)
    from danlu.evaluation.answers.math_compare import same
    from danlu.evaluation.answers.math_forms import forms
    from danlu.evaluation.answers.symbolic import SymbolicJudge

    print("true", file=verdicts, flush=True)
    for line in sys.stdin:
        pair = json.loads(line)
        limit_time(pair["cpu_s"])
        judge = SymbolicJudge(by_text=pair["by_text"])
        try:
            equal = any(same(reply, gold, judge) for reply in forms(pair["reply"]) for gold in forms(pair["gold"]))
        except Exception:  # Whatever a library raises over a model's text, the pair is not equal.
            equal = False
        print(json.dumps(equal), file=verdicts, flush=True)


def limit_time(cpu_s: float) -> None:
    """The system ends this process when it has used `cpu_s` seconds more, whatever it is in the middle of."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
