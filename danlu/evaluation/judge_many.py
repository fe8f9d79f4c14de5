"""Verdicts on many samples, several at once.

In: pairs of a problem and a reply. Out: the verdicts in the same order. What ran out of time beside others is judged
once more, alone, and its second verdict counts (known fault E07); `repeated` marks it, so that a report can count it.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from threading import Event

from danlu.evaluation.code_reply import Problem
from danlu.evaluation.code_verdict import CodeVerdict, judge_code


def judge_all(
    pairs: Iterable[tuple[Problem, str]],
    *,
    workers: int | None = None,
    timeout_s: float = 10.0,
    memory_mb: int = 512,
    wall_s: float | None = None,
    unsafe: bool = False,
    on_verdict: Callable[[int, CodeVerdict], None] = lambda place, verdict: None,
) -> list[CodeVerdict]:
    """The verdict of `judge_code` on each pair; `workers` at once, as many as cores where not given.

    `on_verdict` is called here, not in a thread, with the place of a pair and its verdict as soon as that counts. What
    it raises, as Ctrl-C and any other error, ends all programs at once and is passed on.
    """
    samples, stop = list(pairs), Event()
    judge = partial(
        judge_code, timeout_s=timeout_s, memory_mb=memory_mb, wall_s=wall_s, unsafe=unsafe, is_cancelled=stop.is_set
    )
    verdicts: dict[int, CodeVerdict] = {}
    # A verdict is two processes that take turns: threads are enough to follow them.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            places = {pool.submit(judge, *sample): place for place, sample in enumerate(samples)}
            for future in as_completed(places):
                place = places[future]
                verdicts[place] = future.result()
                if verdicts[place].status != "timeout":
                    on_verdict(place, verdicts[place])
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for place, sample in enumerate(samples):
        if verdicts[place].status == "timeout":
            verdicts[place] = dataclasses.replace(judge(*sample), repeated=True)
            on_verdict(place, verdicts[place])
    return [verdicts[place] for place in range(len(samples))]
