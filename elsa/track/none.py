"""No tracking."""

from dataclasses import dataclass
from pathlib import Path

from elsa.track import Tracker, TrackerSource


@dataclass(frozen=True, kw_only=True)
class NoTracker(TrackerSource):
    """Metrics are thrown away; `result.json` is all that remains."""

    def open(self, folder: Path, name: str, config: dict, step: int = 0) -> Tracker:
        return self

    def log(self, step: int, metrics: dict) -> None:
        pass

    def close(self, summary: dict) -> None:
        pass
