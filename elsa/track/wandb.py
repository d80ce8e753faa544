"""Weights & Biases, beside `metrics.jsonl`: offline where no key is set, and never a reason for a run to fail."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import wandb

from elsa.track import Tracker, TrackerSource
from elsa.track.jsonl import JsonlTracker


@dataclass(frozen=True, kw_only=True)
class Wandb(TrackerSource):
    """`mode`: online, offline, or null: online with a key, else offline. `group` gathers the runs of a sweep."""

    project: str
    group: str | None
    mode: str | None

    def open(self, folder: Path, name: str, config: dict, step: int = 0) -> Tracker:
        return WandbTracker(self, folder, name, config, step)

    def resolved_mode(self) -> str:
        has_key = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
        return self.mode or os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")


class WandbTracker:
    """Logs to both places; the first failure of wandb is reported and ends its part."""

    def __init__(self, source: Wandb, folder: Path, name: str, config: dict, step: int):
        self._jsonl = JsonlTracker(folder / "metrics.jsonl", step)
        self._run = None
        self._run = self._guarded(
            lambda: wandb.init(
                project=source.project, group=source.group, mode=source.resolved_mode(), id=name, name=name,
                job_type="prune", dir=folder, config=config, resume="allow",
                settings=wandb.Settings(silent=True),
            )
        )  # fmt: skip

    def log(self, step: int, metrics: dict) -> None:
        self._jsonl.log(step, metrics)
        if self._run is not None:
            self._guarded(lambda: self._run.log(metrics, step=step))

    def close(self, summary: dict) -> None:
        self._jsonl.close(summary)
        if self._run is not None:
            self._guarded(lambda: self._run.summary.update(summary))
        if self._run is not None:
            self._guarded(self._run.finish)

    def _guarded(self, call: Callable) -> object:
        try:
            return call()
        except (wandb.Error, OSError, RuntimeError, ValueError, TypeError) as error:
            self._run = None
            warnings.warn(f"wandb stopped ({error}); metrics.jsonl goes on", stacklevel=3)
            return None
