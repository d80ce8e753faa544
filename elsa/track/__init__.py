"""Where metrics go while a run goes on. A tracker has two verbs: `log` and `close`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    def log(self, step: int, metrics: dict) -> None:
        """Record metrics of an optimiser step."""

    def close(self, summary: dict) -> None:
        """Record the final numbers and let go."""


@dataclass(frozen=True, kw_only=True)
class TrackerSource(ABC):
    """A tracker's knobs, known before the run; `open` starts it."""

    @abstractmethod
    def open(self, folder: Path, name: str, config: dict, step: int = 0) -> Tracker:
        """Track the run `name` in its run `folder` from after `step` on; `config` is the resolved config as JSON."""
