"""Weights & Biases, beside `metrics.jsonl`: offline where no key is set, and never a reason for a run to fail."""

import json
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import wandb
from wandb.errors import CommError

from elsa.errors import require
from elsa.files import content_hash
from elsa.hub import answers
from elsa.track import Outcome, TrackedRun, Tracker, TrackerSource
from elsa.track.jsonl import JsonlTracker

T = TypeVar("T")
_MODES = ("online", "offline", "disabled")
_ARTIFACTS = ("reference", "upload")
_TAGS = ("model", "method", "pattern")
_PATIENCE = 8  # seconds in which the server must begin to answer
_LAST_PATIENCE = 60  # seconds at the end to send what is left; what was not sent stays on disk
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wandb(TrackerSource):
    """`mode`: online, offline, disabled, or null: as WANDB_MODE and WANDB_DISABLED say, else online if there is a key.

    Where the server does not answer, a run goes on offline. `group`: null for the sweep's, if any. `artifact`: the
    pruned model as an artifact, with lineage from data and parent model to its evaluations: reference, which leaves the
    files where they are, or upload; null for none.
    """

    project: str = "elsa"
    group: str | None = None
    mode: str | None = None
    artifact: str | None = None

    def __post_init__(self) -> None:
        kept = self.artifact is None or self.artifact in _ARTIFACTS
        require(kept, "artifact", self.artifact, f"known: {', '.join(_ARTIFACTS)}, or null")
        known = self.mode is None or self.mode in _MODES
        require(known, "mode", self.mode, f"known: {', '.join(_MODES)}, or null")

    def open(self, run: TrackedRun) -> Tracker:
        return WandbTracker(self, run)

    def describe(self) -> str:
        return f"wandb, {self.resolved_mode()}"

    def resolved_mode(self) -> str:
        disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on")
        asked = self.mode or os.environ.get("WANDB_MODE") or ("disabled" if disabled else None)
        if asked is not None and asked != "online":
            return asked
        if asked is None and not has_key():
            return "offline"
        server = wandb.Settings().base_url
        if answers(server):
            return "online"
        _log.info("wandb: %s cannot be reached, so this goes on offline; `wandb sync` sends it later", server)
        return "offline"


def has_key() -> bool:
    """Whether wandb knows a key, without asking its server."""
    return bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False, verify=False)


class WandbTracker:
    """Logs to both places; the first failure of wandb is reported and ends its part.

    Curves are drawn over the optimiser's step, which is logged as a metric of its own. wandb writes in blocks, and
    offline it starts a new folder each time, so a killed run has lost the end of its curve there, or all of it: a run
    that goes on first logs again what `metrics.jsonl` has and this wandb run has not.
    """

    def __init__(self, source: Wandb, run: TrackedRun):
        self._jsonl, self._artifact = JsonlTracker(run), source.artifact
        self._run: wandb.Run | None = None
        self._run = self._guarded(lambda: _started(source, run))
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
        if self._artifact is not None:
            self._keep(run, outcome)
        run.finish()

    def _keep(self, run: wandb.Run, outcome: Outcome) -> None:
        """The model and its record as artifacts; what it was made from as their inputs, which need the server."""
        for kind, content in outcome.made_from.items() if not run.offline else ():
            used = wandb.Artifact(f"{kind}-{content_hash(content)}", type="dataset" if kind == "data" else kind)
            with used.new_file("identity.json") as file:
                json.dump(content, file, indent=2)
            run.use_artifact(used)
        if outcome.model is not None:
            model = wandb.Artifact(run.name or run.id, type="model", metadata=outcome.made_from)
            if self._artifact == "upload":
                model.add_dir(str(outcome.model))
            else:
                model.add_reference(outcome.model.resolve().as_uri())
            run.log_artifact(model)
        if outcome.record is not None:
            evaluation = wandb.Artifact(f"evaluation-{run.name or run.id}", type="evaluation")
            evaluation.add_file(str(outcome.record))
            run.log_artifact(evaluation)

    def _guarded(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # wandb's errors have no common class, and none is worth a run
            self._run = None
            warnings.warn(f"wandb stopped ({error}); metrics.jsonl goes on", stacklevel=3)
            return None


def _started(source: Wandb, run: TrackedRun) -> wandb.Run:
    """The run at wandb; offline if the server lets it wait."""
    mode = source.resolved_mode()
    try:
        return _init(source, run, mode)
    except CommError as error:
        if mode != "online":
            raise
        _log.info("wandb: %s, so this goes on offline; `wandb sync` sends it later", error)
        return _init(source, run, "offline")


def _init(source: Wandb, run: TrackedRun, mode: str) -> wandb.Run:
    return wandb.init(
        project=source.project, group=source.group, mode=cast(Any, mode), id=run.name, name=run.name, job_type="prune",
        dir=run.folder.resolve(),  # its service may have been started in another folder
        config=run.labels | {"settings": run.config}, resume="allow",
        tags=[str(run.labels[key]) for key in _TAGS if key in run.labels],
        settings=wandb.Settings(silent=True, init_timeout=_PATIENCE, finish_timeout=_LAST_PATIENCE),
    )  # fmt: skip
