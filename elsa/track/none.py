"""No tracking."""

from dataclasses import dataclass

from elsa.track import Outcome, TrackedRun, Tracker, TrackerSource


@dataclass(frozen=True, kw_only=True)
class NoTracker(TrackerSource):
    """Metrics are thrown away; `result.json` is all that remains."""

    def open(self, run: TrackedRun) -> Tracker:
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def close(self, outcome: Outcome) -> None:
        pass
