"""The scores by lm-eval's tasks that a record may hold, and those of generation as rows of a table."""

from typing import Any

TASK_SCORES = ("zero_shot", "generation")
MEASURES = ("tokens", "repetition", "cut")  # of generation, beside the accuracy
GENERATION_COLUMNS = (
    "task", "acc", "answer length in tokens", "repeated 4-grams", "cut at the limit", "n", "shots", "metrics",
)  # fmt: skip


def against_dense(kind: str) -> str:
    """The key of what compares these scores with the dense model's."""
    return f"{kind}_against_dense"


def generation_rows(scores: dict[str, Any], pairs: dict[str, Any]) -> list[list[str]]:
    """A row for each task, some cells on two lines. `pairs`: by task and measure, the difference to the dense model,
    which stands in brackets with its 95 % interval.
    """
    rows = []
    for name, task in scores["tasks"].items():
        pair = pairs.get(name, {})
        accuracy = f"{task['acc']:.3f} ± {task['acc_stderr']:.3f}" if "acc" in task else "--"
        cells = [accuracy + _change(pair.get("acc"), 3), f"{task['tokens']:.1f}" + _change(pair.get("tokens"), 1)]
        cells += [f"{task[measure]:.1%}" + _change(pair.get(measure), 1, 100) for measure in MEASURES[1:]]
        rows.append([name, *cells, f"{task['n']:,}", str(task["num_fewshot"]), metrics_of(task)])
    return rows


def metrics_of(task: dict[str, Any]) -> str:
    """Every metric of a task of generation under every filter, with a note at the one that is the accuracy."""
    noted = {key: " (acc)" if key == task.get("accuracy") else "" for key in task["metrics"]}
    return ";\n".join(f"{key} {metric['value']:.4g}{noted[key]}" for key, metric in task["metrics"].items())


def _change(pair: dict[str, Any] | None, digits: int, factor: int = 1) -> str:
    if pair is None:
        return ""
    difference, low, high = (f"{factor * pair[key]:+.{digits}f}" for key in ("difference", "low", "high"))
    return f"\n({difference} [{low}, {high}])"
