"""What an evaluation is, and what becomes of its scores."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast

from elsa.data.windows import WindowReader
from elsa.distributed.ranks import ONE, Ranks


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
        """Scores by kind ("perplexity", "zero_shot"), with their protocol, as JSON."""


def summary_of(scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The numbers that a tracker keeps of a run: "perplexity/<set>", and "zero_shot/<task>" with its accuracy.

    Of a task without accuracy "zero_shot/<task>/<metric>".
    """
    summary = {f"perplexity/{name}": score["perplexity"] for name, score in scores.get("perplexity", {}).items()}
    if zero_shot := scores.get("zero_shot"):
        for name, score in zero_shot["tasks"].items():
            if "acc" in score:
                summary[f"zero_shot/{name}"] = score["acc"]
            else:
                others = {metric: value for metric, value in score.items() if isinstance(value, float)}
                summary |= {f"zero_shot/{name}/{metric}": value for metric, value in others.items()}
        if zero_shot["average_acc"] is not None:
            summary["zero_shot/average"] = zero_shot["average_acc"]
    return summary


def paired(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """Pruned against dense on the same items, by task: difference of accuracy, its 95 % interval, flipped answers.

    Takes two "zero_shot" results. Tasks whose documents differ are left out. Where an answer is not right or wrong but
    scored by a share, those that fell count as lost and those that rose as gained.
    """
    result = {}
    for name in pruned["items"]:
        scores = pruned["tasks"][name]
        same = name in dense["items"] and dense["tasks"][name]["data_sha256"] == scores["data_sha256"]
        if not same:
            continue
        changes = [after - before for before, after in zip(dense["items"][name], pruned["items"][name], strict=True)]
        mean, error = sum(changes) / len(changes), standard_error(changes)
        result[name] = {
            "difference": mean, "low": max(-1.0, mean - 1.96 * error), "high": min(1.0, mean + 1.96 * error),
            "lost": sum(change < 0 for change in changes), "gained": sum(change > 0 for change in changes),
            "n": len(changes),
        }  # fmt: skip
    return result


def standard_error(values: list[float]) -> float:
    """Of their mean, with n − 1."""
    count, mean = len(values), sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / max(1, count - 1) / count) ** 0.5)
