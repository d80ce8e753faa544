"""Scores of a model: perplexity on held-out windows (`perplexity`) and zero-shot accuracy (`zero_shot`)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast

from elsa.data.windows import WindowReader


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is scored. `cache`: where scores that depend on content alone are kept."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerFast
    cache: Path


class Evaluation(ABC):
    """Scores of one or more kinds. What is missing is found before the work starts."""

    @abstractmethod
    def check(self) -> None:
        """Raise `UserError` if something can be seen to be missing."""

    @abstractmethod
    def fetch(self, mirror: Path) -> None:
        """Copy from the hub what the scoring needs; into `mirror`, if it is not kept in the hub's own way."""

    @abstractmethod
    def prepare(self, reader: WindowReader) -> Any:
        """Read what the scoring needs, before the model is pruned."""

    @abstractmethod
    def evaluate(self, subject: Subject, prepared: Any) -> dict[str, dict]:
        """Scores by kind ("perplexity", "zero_shot"), with their protocol, as JSON."""


def summary_of(scores: dict[str, dict]) -> dict[str, float]:
    """The numbers that a tracker keeps of a run: "perplexity/<set>" and "zero_shot/<task>"."""
    summary = {f"perplexity/{name}": score["perplexity"] for name, score in scores.get("perplexity", {}).items()}
    if zero_shot := scores.get("zero_shot"):
        summary |= {f"zero_shot/{name}": score["acc"] for name, score in zero_shot["tasks"].items()}
        summary["zero_shot/average"] = zero_shot["average_acc"]
    return summary
