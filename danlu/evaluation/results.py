"""What a run of benchmarks leaves: every question with its verdict, figures for each benchmark, and a table.

`task_figures`: `score` (mean over questions, 0 to 1) and its `stderr`, `questions`, `num_shots` (asked for),
`shots_used` (number of questions by the number of examples they really had), `refused` (questions that did not fit even
alone; they count as wrong), `cut` (replies that ended at their length), `invalid` (share of replies without an answer),
`by_subject`, `subject_mean` (every subject alike); of code `pass_at_k`, `verdicts` (programs by how they ended) and
`repeated` (programs judged again alone); of safety `refusal` and `over_refusal` (`share` declined of so many
`requests`, harmful and harmless).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from danlu.evaluation.code_verdict import mean_pass_at_k
from danlu.evaluation.tasks.questions import Item
from danlu.evaluation.tasks.safety import DECLINE
from danlu.evaluation.tasks.sources import read_text
from danlu.run.errors import UserError
from danlu.run.markdown import table
from danlu.run.metrics import read_jsonl

Record = dict[str, Any]

LEFT_OVER = {"timeout": "ran out of time", "memory": "ran out of memory", "refused": "were not run"}
"""Ends of programs that say little of whether they are right (known fault E07)."""

PASS_KS = (1, 10, 100)
"""The k of pass@k that are reported, as far as there are samples (Chen et al. 2021)."""


def write_items(path: Path, task: Any, found: Record, lm: Any) -> list[Record]:
    """Write a line for each question of a task that the harness has run; the records."""
    samples = {sample["doc"]["id"]: sample for sample in found["samples"][task.benchmark.name]}
    records = [_record(task, item, samples[item.id], lm) for item in task.questions.items]
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    return records


def _record(task: Any, item: Item, sample: Record, lm: Any) -> Record:
    """Of one question: the prompt as the model really read it, what came of it, and the grades."""
    asked = sample["arguments"][0]
    responses = [responses[0] for responses in sample["resps"]]
    if task.by_likelihood:
        fitted = lm.fit_context(*asked)
        answered: Record = {
            "choices": {
                letter: logprob if logprob > float("-inf") else None
                for letter, (logprob, _) in zip(task.benchmark.letters, responses, strict=True)
            }
        }
    else:
        fitted = responses[0].fitted(asked[0])
        answered = {"replies": responses, "cut": sum(reply.is_cut for reply in responses)}
    return {
        "id": item.id,
        "subject": item.subject,
        "prompt": str(fitted.prompt),
        "num_shots": fitted.num_examples,
        **answered,
        "refused": fitted.ids is None,
        "gold": item.gold,
        "grades": task.grades[item.id],
        "score": sample["score"],
    }


def task_figures(task: Any, records: Sequence[Record], found: Record) -> Record:
    """The figures of one benchmark."""
    results = found["results"][task.benchmark.name]
    by_subject: dict[str, list[float]] = defaultdict(list)
    for record in records:
        by_subject[record["subject"]].append(record["score"])
    subjects = {subject: fmean(scores) for subject, scores in by_subject.items()}
    stderr = results.get("score_stderr,none")
    return {
        "title": task.benchmark.title,
        "score": results["score,none"],
        "stderr": stderr if isinstance(stderr, float) else None,
        "questions": len(records),
        "num_shots": task.get_config("num_fewshot"),
        "shots_used": {str(shots): n for shots, n in sorted(Counter(r["num_shots"] for r in records).items())},
        "refused": sum(record["refused"] for record in records),
        "cut": sum(record.get("cut", 0) for record in records),
        "invalid": results["invalid,none"],
        **({"by_subject": subjects, "subject_mean": fmean(subjects.values())} if len(subjects) > 1 else {}),
        **(_of_code(records) if task.benchmark.kind == "code" else {}),
        **(_of_refusals(records) if task.benchmark.kind == "refusal" else {}),
    }


def _of_code(records: Sequence[Record]) -> Record:
    """pass@k, and how many programs were judged again because they had run out of time beside others."""
    right = {record["id"]: [bool(grade["score"]) for grade in record["grades"]] for record in records}
    samples = min(map(len, right.values()))
    return {
        "pass_at_k": {str(k): mean_pass_at_k(right, list(right), k) for k in PASS_KS if k <= samples},
        "verdicts": Counter(grade["answer"] for record in records for grade in record["grades"]),
        "repeated": sum(grade.get("repeated", False) for record in records for grade in record["grades"]),
    }


def _of_refusals(records: Sequence[Record]) -> Record:
    """Of the harmful requests and of the harmless ones: what share was declined. An empty reply declines nothing; a
    side that was not asked has no share."""
    declined: dict[str, list[float]] = {"harmful": [], "harmless": []}
    for record in records:
        declined[record["subject"].split("/")[1]] += [grade["answer"] == DECLINE for grade in record["grades"]]
    return {
        name: {"share": fmean(declined[side]) if declined[side] else None, "requests": len(declined[side])}
        for name, side in (("refusal", "harmful"), ("over_refusal", "harmless"))
    }


def published_rows(data: Path | None) -> Record:
    """Scores of other models in percent, with their source, from `published.json` where the data has one."""
    path = data / "published.json" if data else None
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path))
        rows = {
            str(name): {str(task): None if score is None else float(score) for task, score in scores.items()}
            for name, scores in found["base"].items()
        }
        return {"source": str(found.get("source", "")), "rows": rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not a table of published scores: {error!r}", where=path, mend="Remove the file") from error


def write_table(path: Path, figures: Record) -> None:
    """The scores in percent beside the published ones, as a Markdown table."""
    path.write_text("\n".join(table_lines(figures)) + "\n", encoding="utf-8")


def table_lines(figures: Record) -> list[str]:
    """The table's lines; a line of notes below where something was left out, or a share of replies has no answer."""
    tasks, model = figures["tasks"], Path(figures["model"])
    published = figures["published"].get("rows", {})
    name = f"{model.parent.name}/{model.name}".removeprefix("/")
    rows = [[name, *(percent(task["score"], task["stderr"]) for task in tasks.values())]]
    for other, scores in published.items():
        shown = [scores.get(task) for task in tasks]
        if any(value is not None for value in shown):
            rows.append([f"{other} (published)", *("–" if value is None else f"{value:.1f}" for value in shown)])
    lines = table(["model", *(f"{task['title']} ({task['num_shots']}-shot)" for task in tasks.values())], rows)
    notes = [note for name, task in tasks.items() for note in _notes(name, task)]
    source = figures["published"].get("source")
    end = "Scores are means over questions, in percent."
    if source:
        end += f" Published: {source}{' – not in a chat, as here' if figures['chat'] else ''}."
    return [*lines, "", *notes, end]


def percent(score: float, stderr: float | None) -> str:
    """A share as percent with its standard error."""
    return f"{100 * score:.1f}" + ("" if stderr is None else f" ± {100 * stderr:.1f}")


def fewer_shots(task: Record) -> dict[str, int]:
    """Number of questions by the number of examples, where that is not the one asked for: the model reads no more, or
    the benchmark has no more."""
    return {shots: n for shots, n in task.get("shots_used", {}).items() if shots != str(task.get("num_shots"))}


def _notes(name: str, task: Record) -> list[str]:
    fewer = fewer_shots(task)
    notes = []
    if fewer:
        counts = ", ".join(f"{n} with {shots}" for shots, n in fewer.items())
        notes.append(f"- {name}: fewer examples than {task['num_shots']} in {sum(fewer.values())} prompts ({counts}).")
    if task["refused"]:
        notes.append(f"- {name}: {task['refused']} of {task['questions']} questions are too long for the model: wrong.")
    if task["invalid"]:
        notes.append(f"- {name}: {100 * task['invalid']:.1f} percent of the replies have no answer: wrong.")
    if task.get("cut"):
        notes.append(f"- {name}: {task['cut']} replies ended at their length, before the model had done.")
    if stopped := {how: n for how in LEFT_OVER if (n := task.get("verdicts", {}).get(how))}:
        notes.append(f"- {name}: {', '.join(f'{n} programs {LEFT_OVER[how]}' for how, n in stopped.items())}.")
    for what, side in (("refusal", "harmful"), ("over_refusal", "harmless")):
        if (found := task.get(what)) and found["share"] is not None:
            notes.append(f"- {name}: declined {percent(found['share'], None)} of {found['requests']} {side} requests.")
    return notes


def read_results(run: Path) -> dict[str, dict[str, Record]]:
    """The records of a finished run by benchmark and id. Raises UserError where there is none."""
    folder = run / "results" / "items"
    if not folder.is_dir():
        raise UserError("no results of benchmarks", where=run, mend="Name the --out of a finished `danlu evaluate`")
    return {path.stem: {record["id"]: record for record in read_jsonl(path)} for path in sorted(folder.glob("*.jsonl"))}
