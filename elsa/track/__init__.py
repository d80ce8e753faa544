"""Where metrics go while a run goes on. A tracker has two verbs: `log` and `close`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run ends with. `tables`: rows by name, the header first. `pictures`: PNG files by name.

    `record`: its file. `model`: the folder of what was pruned, None if nothing was; `made_from`: what says which "data"
    and which "model" that was made from.
    """

    summary: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    record: Path | None = None
    model: Path | None = None
    made_from: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The run that is tracked. `labels`: model, method, pattern, sparsity, seed.

    `step`: the one it goes on from, None if all steps are done and only the outcome is missing.
    """

    folder: Path
    name: str
    labels: dict[str, str | float | int]
    config: dict[str, Any]
    step: int | None = 0


class Tracker(Protocol):
    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of an optimiser step."""

    def close(self, outcome: Outcome) -> None:
        """Record how the run ended and let go."""


@dataclass(frozen=True, kw_only=True)
class TrackerSource(ABC):
    """A tracker's knobs, known before the run; `open` starts it."""

    @abstractmethod
    def open(self, run: TrackedRun) -> Tracker:
        """Start tracking a run."""

    def describe(self) -> str:
        """Where metrics will go, in words."""
        return type(self).__name__.lower()
