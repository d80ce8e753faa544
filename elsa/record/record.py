"""`result.json`: what a run was, what it gave, and what it was made with. Written last, so its presence means done.

A record holds the pruned model's facts once, and a list of evaluations with their keys: `scored` and `views` give it
with the scores in their place. Records of the format before, with one evaluation and the classes of that time, are
read as if they had been written today.
"""

import os
from pathlib import Path
from typing import Any

from elsa.errors import UserError
from elsa.files import json_object, read_text, write_json
from elsa.record.scores import TASK_SCORES, against_dense
from elsa.record.shape import check_pruned, check_scored
from elsa.record.upgrade import upgraded

FORMAT = 3
_READ = (2, FORMAT)
_VALUES = ("perplexity", "loss")  # of a set; the rest is how it was scored
_TASKS = [key for kind in TASK_SCORES for key in (kind, against_dense(kind))]

Record = dict[str, Any]


def write_record(folder: Path, record: Record) -> None:
    """Put `record` into `result.json` of the run's `folder`, atomically."""
    write_json(folder / "result.json", {"format": FORMAT} | record)


def read_record(folder: Path) -> Record | None:
    """The record of a finished run.

    Args:
        folder: of the run.

    Returns:
        What its `result.json` says, whatever version wrote it; None if the run is not finished.

    Raises:
        UserError: if the file is no record.
    """
    path = folder / "result.json"
    try:
        return parsed(read_text(path), str(path)) if os.path.lexists(path) else None
    except UserError as error:
        raise UserError(f"{error}; delete it to run again") from error


def read_pruned(folder: Path) -> Record | None:
    """What a run that is not finished has pruned and saved.

    Args:
        folder: of the run.

    Returns:
        What its `pruned.json` says; None if there is none.

    Raises:
        UserError: if the file is broken.
    """
    path = folder / "pruned.json"
    if not os.path.lexists(path):
        return None
    pruned = json_object(read_text(path), str(path))
    check_pruned(pruned, str(path))
    return pruned


def read_records(path: Path) -> list[Record]:
    """The records of a JSONL file, a line each, as `elsa report` collects them.

    Args:
        path: of the file.

    Raises:
        UserError: with the line's number if one is no record.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    return [parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def parsed(text: str, where: str) -> Record:
    """One record, with all that its readers need.

    Args:
        text: JSON.
        where: it is from, for errors.

    Raises:
        UserError: that names `where` if it is no record.
    """
    record = json_object(text, where)
    if record.get("format") not in _READ:
        raise UserError(f"{where}: not a record of format {' or '.join(map(str, _READ))}")
    check_pruned(record, where)
    if record["format"] == FORMAT:
        check_scored(record, where)
        return upgraded(record)
    record = upgraded(record)
    check_scored(record, where)
    return record


def evaluation_of(record: Record | None, key: str) -> dict[str, Any] | None:
    """One of a record's evaluations.

    Args:
        record: None has none.
        key: of the evaluation, or the beginning of one that ends with "-".

    Returns:
        The evaluation; None if there is none.
    """
    found = [] if record is None else record["evaluations"]
    return next((each for each in found if each["key"] and each["key"].startswith(key)), None)


def scored(record: Record, evaluation: dict[str, Any]) -> Record:
    """`record` with the scores of one `evaluation` in their place."""
    return _with_scores(record, [evaluation])


def views(record: Record) -> list[Record]:
    """A record once for each protocol of a set: evaluations of different sets stand in one view.

    Args:
        record: as it was read, with its list of evaluations.

    Returns:
        Records with scores in their place: `view["perplexity"]["held_out"]["perplexity"]`.
    """
    groups: list[list[dict[str, Any]]] = []
    for evaluation in record["evaluations"]:
        free = (group for group in groups if not any(_clash(other, evaluation) for other in group))
        group = next(free, None)
        groups.append([evaluation]) if group is None else group.append(evaluation)
    return [_with_scores(record, group) for group in groups]


def _with_scores(record: Record, evaluations: list[dict[str, Any]]) -> Record:
    view = {key: value for key, value in record.items() if key != "evaluations"} | {"perplexity": {}}
    for evaluation in evaluations:
        view["perplexity"] = view["perplexity"] | {
            name: score | {"perplexity": float(score["perplexity"])}
            for name, score in evaluation.get("perplexity", {}).items()
        }
        view |= {key: evaluation[key] for key in _TASKS if key in evaluation}
    return view


def _clash(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both score the same thing in different ways; in the same way the later one stands for both."""
    first, second = _protocols(one), _protocols(other)
    return any(first[name] != second[name] for name in first.keys() & second.keys())


def _protocols(evaluation: dict[str, Any]) -> dict[str, Any]:
    """{set or kind of tasks: how it was scored}."""
    sets = evaluation.get("perplexity", {}).items()
    found: dict[str, Any] = {f"set {n}": {k: v for k, v in s.items() if k not in _VALUES} for n, s in sets}
    return found | {kind: task_protocol(evaluation[kind]) for kind in TASK_SCORES if evaluation.get(kind)}


def task_protocol(scores: dict[str, Any]) -> list[Any]:
    """How tasks were scored, from their `scores`: results with the same can be compared."""
    decisive = ("data_sha256", "num_fewshot", "max_new_tokens")
    tasks = {name: [task.get(key) for key in decisive] for name, task in scores["tasks"].items()}
    return [scores["limit"], scores["dtype"], scores["lm_eval"], scores.get("settings"), tasks]
