"""Weights & Biases, beside `metrics.jsonl`: offline where no key is set, and never a reason for a run to fail."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import wandb

from elsa.track import Outcome, TrackedRun, Tracker, TrackerSource
from elsa.track.jsonl import JsonlTracker

T = TypeVar("T")
_TAGS = ("model", "method", "pattern")


@dataclass(frozen=True, kw_only=True)
class Wandb(TrackerSource):
    """`mode`: online, offline, or null: online with a key, else offline. `group`: null for the sweep's, if any."""

    project: str = "elsa"
    group: str | None = None
    mode: str | None = None

    def open(self, run: TrackedRun) -> Tracker:
        return WandbTracker(self, run)

    def describe(self) -> str:
        return f"wandb, {self.resolved_mode()}"

    def resolved_mode(self) -> str:
        has_key = bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False, verify=False)
        return self.mode or os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")


class WandbTracker:
    """Logs to both places; the first failure of wandb is reported and ends its part.

    Curves are drawn over the optimiser's step, which is logged as a metric of its own. wandb writes in blocks, and
    offline it starts a new folder each time, so a killed run has lost the end of its curve there, or all of it: a run
    that goes on first logs again what `metrics.jsonl` has and this wandb run has not.
    """

    def __init__(self, source: Wandb, run: TrackedRun):
        self._jsonl = JsonlTracker(run)
        self._run: wandb.Run | None = None
        self._run = self._guarded(
            lambda: wandb.init(
                project=source.project, group=source.group, mode=cast(Any, source.resolved_mode()),
                id=run.name, name=run.name, job_type="prune",
                dir=run.folder.resolve(),  # its service may have been started in another folder
                config=run.labels | {"settings": run.config}, resume="allow",
                tags=[str(run.labels[key]) for key in _TAGS if key in run.labels],
                settings=wandb.Settings(silent=True),
            )
        )  # fmt: skip
        started = self._run
        if started is not None:
            self._guarded(lambda: self._catch_up(started))

    def _catch_up(self, run: wandb.Run) -> None:
        run.define_metric("*", step_metric="step")
        seen = run.summary.get("step", 0)
        for metrics in self._jsonl.kept:
            if metrics["step"] > seen:
                run.log(metrics)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._jsonl.log(step, metrics)
        run = self._run
        if run is not None:
            self._guarded(lambda: run.log({"step": step} | metrics))

    def close(self, outcome: Outcome) -> None:
        self._jsonl.close(outcome)
        run = self._run
        if run is not None:
            self._guarded(lambda: self._finish(run, outcome))

    def _finish(self, run: wandb.Run, outcome: Outcome) -> None:
        media: dict[str, Any] = {f"pictures/{name}": wandb.Image(str(path)) for name, path in outcome.pictures.items()}
        media |= {name: wandb.Table(columns=rows[0], data=rows[1:]) for name, rows in outcome.tables.items()}
        if media:
            run.log(media)
        run.summary.update(outcome.summary)
        run.finish()

    def _guarded(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # wandb's errors have no common class, and none is worth a run
            self._run = None
            warnings.warn(f"wandb stopped ({error}); metrics.jsonl goes on", stacklevel=3)
            return None
