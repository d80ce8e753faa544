"""What an evaluation is, and what becomes of its scores."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast

from elsa.data.windows import WindowReader
from elsa.distributed.ranks import ONE, Ranks
from elsa.record.scores import MEASURES, TASK_SCORES


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is scored. `cache`: where scores that depend on content alone are kept. `ranks`: that share the work, each
    with all of the model.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerFast
    cache: Path
    ranks: Ranks = ONE


class Evaluation(ABC):
    """Scores of one or more kinds. What is missing is found before the work starts."""

    @abstractmethod
    def check(self) -> None:
        """Raise `UserError` if something can be seen to be missing."""

    @abstractmethod
    def identity(self, cache: Path) -> dict[str, Any]:
        """What decides the scores of given weights, as JSON: the protocol, and the content of every set.

        `cache`: where hashes of large files are remembered.
        """

    @abstractmethod
    def fetch(self, mirror: Path) -> None:
        """Copy from the hub what the scoring needs; into `mirror`, if it is not kept in the hub's own way."""

    @abstractmethod
    def prepare(self, reader: WindowReader) -> Any:
        """Read what the scoring needs, before the model is pruned."""

    @abstractmethod
    def evaluate(self, subject: Subject, prepared: Any) -> dict[str, dict[str, Any]]:
        """Scores by kind ("perplexity", "zero_shot", "generation"), with their protocol, as JSON."""


def summary_of(scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The numbers that a tracker keeps of a run: "perplexity/<set>", and "zero_shot/<task>" with its accuracy.

    Of a task without accuracy "zero_shot/<task>/<metric>". So for "generation", each task with all its metrics and
    measures.
    """
    summary = {f"perplexity/{name}": score["perplexity"] for name, score in scores.get("perplexity", {}).items()}
    for kind in TASK_SCORES:
        if kind in scores:
            summary |= _summary_of_tasks(kind, scores[kind])
    return summary


def _summary_of_tasks(kind: str, scores: dict[str, Any]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for name, score in scores["tasks"].items():
        shown = {measure: score[measure] for measure in MEASURES if measure in score}
        shown |= {metric: each["value"] for metric, each in score.get("metrics", {}).items()}
        if "acc" in score:
            summary[f"{kind}/{name}"] = score["acc"]
        else:
            shown |= {metric: value for metric, value in score.items() if isinstance(value, float)}
        summary |= {f"{kind}/{name}/{metric}": value for metric, value in shown.items()}
    if scores["average_acc"] is not None:
        summary[f"{kind}/average"] = scores["average_acc"]
    return summary


def paired(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """Pruned against dense on the same items, by task: difference of accuracy, its 95 % interval, flipped answers.

    Takes two "zero_shot" results, or two of "generation", of which each measure is compared by itself. Tasks whose
    documents differ are left out. Where an answer is not right or wrong but scored by a share, those that fell count as
    lost and those that rose as gained.
    """
    result: dict[str, Any] = {}
    for name, after in pruned["items"].items():
        before = dense["items"].get(name)
        if before is None or dense["tasks"][name]["data_sha256"] != pruned["tasks"][name]["data_sha256"]:
            continue
        if isinstance(after, dict):
            result[name] = {measure: _compared(before[measure], after[measure], measure) for measure in after}
        else:
            result[name] = _compared(before, after)
    return result


def _compared(before: list[float], after: list[float], measure: str = "acc") -> dict[str, Any]:
    changes = [new - old for old, new in zip(before, after, strict=True)]
    mean, reach = sum(changes) / len(changes), 1.96 * standard_error(changes)
    most = math.inf if measure == "tokens" else 1.0
    found = {"difference": mean, "low": max(-most, mean - reach), "high": min(most, mean + reach), "n": len(changes)}
    if measure == "acc":
        found |= {"lost": sum(change < 0 for change in changes), "gained": sum(change > 0 for change in changes)}
    return found


def standard_error(values: list[float]) -> float:
    """Of their mean, with n − 1."""
    count, mean = len(values), sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / max(1, count - 1) / count) ** 0.5)
