"""The process that computes: pairs of answers in, verdicts out, one JSON line each.

In, on standard input: `{"reply": …, "gold": …, "by_text": bool}` with canonical texts. Out, on standard output: a line
`true` when it is ready, then a bool a pair. It has no time limit: who started it ends it. Ends with its input.
"""

import json
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
        judge = SymbolicJudge(by_text=pair["by_text"])
        try:
            equal = any(same(reply, gold, judge) for reply in forms(pair["reply"]) for gold in forms(pair["gold"]))
        except Exception:  # Whatever a library raises over a model's text, the pair is not equal.
            equal = False
        print(json.dumps(equal), file=verdicts, flush=True)


if __name__ == "__main__":
    main()
