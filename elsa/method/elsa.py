"""Elsa: surrogate-free ADMM on the language-model loss itself (arXiv:2510.01650)."""

from dataclasses import dataclass

import torch
from torch import nn

from elsa.admm.engine import Admm
from elsa.admm.loop import Loop
from elsa.admm.optimizer import Stepper
from elsa.admm.training import Training
from elsa.errors import require
from elsa.method import Method, Task, state_bytes, teacher_of, trainable
from elsa.model.prunable import PrunableWeight, prunable_weights
from elsa.sparsity.pattern import Pattern

Weights = dict[str, PrunableWeight]
Supports = dict[str, torch.Tensor] | None  # by name, bool


@dataclass(frozen=True, kw_only=True)
class Elsa(Method):
    """Train all parameters; pull the prunable weights to their sparse copy; project at the end.

    `interval`: steps between two z/u updates. `projection`: "objective_aware" weighs entries by Adam's second moment
    (Eq. 10 and 11), "euclidean" does not. Deliberate differences to the reference code: the projection is the paper's
    by default; u is rescaled at the moment λ changes; exact counts; one seed for everything. A global budget
    (`sparsity.allocation`) is placed anew at every update.
    """

    interval: int
    projection: str

    reads = ("sparsity", "data", "seed", "training", "penalty", "precision")

    def __post_init__(self):
        require(self.interval >= 1, "interval", self.interval, "at least 1 step")
        known = ("objective_aware", "euclidean")
        require(self.projection in known, "projection", self.projection, f"known: {', '.join(known)}")

    @property
    def _objective_aware(self) -> bool:
        return self.projection == "objective_aware"

    def check(self, training: Training) -> None:
        within = self.interval <= training.steps
        require(within, "interval", self.interval, f"at most training.steps={training.steps}")
        has_moments = not self._objective_aware or training.optimizer == "adam"
        wanted = f"needs second moments, which training.optimizer={training.optimizer} lacks; set adam, or euclidean"
        require(has_moments, "projection", self.projection, wanted)

    def apply(self, model: nn.Module, task: Task) -> dict:
        training, precision, weights = task.training, task.precision, prunable_weights(model)
        teacher = teacher_of(model, training, precision)
        facts, supports = ({}, None) if task.checkpoints.exist() else self._start(model, weights, task)
        windows = training.windows(task.windows)
        with precision.applied(model):
            stepper = Stepper(trainable(model), training, precision)
            constraint = self._constraint(weights, stepper, task, supports)
            loop = Loop(model, stepper, training, precision, constraint, facts, teacher, task.probe_every)
            loop.run(windows, task.log, task.checkpoints)
        constraint.project_weights()
        print(constraint.verdict(), flush=True)
        numel = sum(weight.parameter.numel() for weight in weights.values())
        return loop.facts | {
            "training_tokens": windows.numel(), "before_projection": constraint.before_projection.metrics(),
            "verdict": constraint.verdict(), "mask_changes": constraint.mask_changes,
            "bytes": {"admm_per_prunable_weight": constraint.nbytes / numel} | state_bytes(model, stepper),
        }  # fmt: skip

    def _start(self, model: nn.Module, weights: Weights, task: Task) -> tuple[dict, Supports]:
        """Facts for the record, and the first supports of z (None for those of magnitude)."""
        return {}, None

    def _constraint(self, weights: Weights, stepper: Stepper, task: Task, supports: Supports) -> Admm:
        training = task.training
        return Admm(
            weights, stepper, task.pattern, task.penalty, task.precision, interval=self.interval,
            objective_aware=self._objective_aware, supports=supports,
            probe_every=task.probe_every, travel=training.travel, rate=training.learning_rate_at,
            **self._phases(training.steps, task.pattern),
        )  # fmt: skip

    def _phases(self, steps: int, pattern: Pattern) -> dict:
        """Arguments of `Admm` about what happens when."""
        return {"steps": steps}
