"""What a pruning run and an evaluation are given."""

from dataclasses import dataclass

import torch

from elsa.admm.penalty import Penalty
from elsa.config.commands import Paths, SavedModel
from elsa.data.sources import Source
from elsa.distributed.ranks import started_among
from elsa.errors import require
from elsa.evaluation.base import Evaluation
from elsa.method.base import Method
from elsa.model.loading import ModelSource
from elsa.sparsity.pattern import Pattern
from elsa.track import TrackerSource
from elsa.train.budget import Training
from elsa.train.precision import Precision

MOST_DEVICES = 100_000


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Every how many minutes a training run keeps its state, and how many of the last states stay on disk."""

    every_minutes: float = 15.0
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.every_minutes >= 0, "every_minutes", self.every_minutes, "0 for every step, or a positive number")
        require(self.keep >= 1, "keep", self.keep, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What `elsa plan` plans for. `device_memory_gib`: null for that of this machine. `dry_run_steps`: 0 for none."""

    device_memory_gib: float | None = None
    dry_run_steps: int = 0

    def __post_init__(self) -> None:
        known = self.device_memory_gib is None or self.device_memory_gib > 0
        require(known, "device_memory_gib", self.device_memory_gib, "positive, for example 80, or null")
        require(
            self.dry_run_steps >= 0 and self.dry_run_steps != 1,
            "dry_run_steps",
            self.dry_run_steps,
            "0 for none, or at least 2",
        )


@dataclass(frozen=True, kw_only=True)
class Shared:
    """`devices`: how many processes share the work, each with a `device` of its own; null for one, or as many as
    torchrun or srun has started.
    """

    device: str
    devices: int | None = None

    @property
    def ranks(self) -> int:
        """How many processes share the work."""
        return self.devices or started_among()


@dataclass(frozen=True, kw_only=True)
class PruneConfig(Shared):
    """One pruning run. `reuse`: results of same_code, or of any_code that was asked the same question.

    `full`: whether files of a mirror are compared by hash before it starts, too.
    """

    model: ModelSource
    data: Source
    sparsity: Pattern
    method: Method
    training: Training
    penalty: Penalty
    precision: Precision
    eval: Evaluation
    tracker: TrackerSource
    paths: Paths
    seed: int
    activations: str
    checkpoint: Checkpointing
    probe_every: int
    reuse: str
    plan: Planning
    full: bool = False

    def __post_init__(self) -> None:
        """Where sparsity and training leave a choice to the method, make it, so that names and keys know it."""
        object.__setattr__(self, "sparsity", self.sparsity.allocated(self.method.allocation))
        filled = self.training.filled(self.method.warmup_steps, self.method.hidden_distillation)
        object.__setattr__(self, "training", filled)


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """The part of a run's config that says where its metrics go."""

    tracker: TrackerSource


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SavedModel, Shared):
    """Scoring one saved model, of which each device has all, and a share of the windows and tasks.

    `dtype` and `begin_with_bos`: null for those of its run; for a folder that is none the dtype of its weights if they
    were exported, else float32, and false.
    """

    data: Source
    eval: Evaluation
    paths: Paths
    dtype: str | None = None
    begin_with_bos: bool | None = None


def resolved_device(device: str) -> str:
    """Where "auto" is cuda if there is one, else cpu. Raises `UserError` for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = ["auto", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    require(device in known, "device", device, f"known here: {', '.join(known)}")
    return device
