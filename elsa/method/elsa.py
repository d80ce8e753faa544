"""Elsa: surrogate-free ADMM on the language-model loss itself (arXiv:2510.01650)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from elsa.admm.engine import Admm
from elsa.admm.phases import Phases
from elsa.admm.state import start_state
from elsa.errors import require
from elsa.method.base import Method, Task
from elsa.model.weights import PrunableWeight, prunable_weights
from elsa.sparsity.pattern import Pattern, Rise
from elsa.train.budget import Training
from elsa.train.optimizer import Optimizer
from elsa.train.precision import Precision
from elsa.train.sparse import Projection, SparseConstraint
from elsa.train.train import teacher_of, train

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

    interval: int = 32
    projection: str = "objective_aware"

    @property
    def trains(self) -> bool:
        return True

    @property
    def uses_penalty(self) -> bool:
        return True

    def __post_init__(self) -> None:
        require(self.interval >= 1, "interval", self.interval, "at least 1 step")
        known = ("objective_aware", "euclidean")
        require(self.projection in known, "projection", self.projection, f"known: {', '.join(known)}")

    @property
    def _objective_aware(self) -> bool:
        return self.projection == "objective_aware"

    def state_bytes(self, precision: Precision) -> float:
        """Of z, u and mask, as really held for a matrix of 64 x 4,096."""
        state = start_state(torch.ones(64, 4096), Pattern(pattern="unstructured", ratio=0.5), precision)
        return state.nbytes / (64 * 4096)

    def check(self, training: Training) -> None:
        within = self.interval <= training.steps
        require(within, "interval", self.interval, f"at most training.steps={training.steps}")
        has_moments = not self._objective_aware or training.optimizer == "adam"
        wanted = f"needs second moments, which training.optimizer={training.optimizer} lacks; set adam, or euclidean"
        require(has_moments, "projection", self.projection, wanted)

    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        weights = prunable_weights(model)
        teacher = teacher_of(model, task)  # before a start method changes it
        facts, supports = ({}, None) if task.checkpoints.exist() else self._start(model, weights, task)

        def constrain(optimizer: Optimizer) -> SparseConstraint:
            projection = Projection(
                weights=weights, optimizer=optimizer, pattern=task.pattern, objective_aware=self._objective_aware,
                rise=self._rise(task), ranks=task.ranks,
            )  # fmt: skip
            own = supports and {name: weights[name].own_rows(support) for name, support in supports.items()}
            return self._constraint(projection, task, own)

        return train(model, constrain, task, teacher=teacher, facts=facts)

    def _start(self, model: nn.Module, weights: Weights, task: Task) -> tuple[dict[str, Any], Supports]:
        """Facts for the record, and the first supports of z (None for those of magnitude)."""
        return {}, None

    def _rise(self, task: Task) -> Rise:
        return Rise()

    def _phases(self, steps: int) -> Phases:
        return Phases(steps=steps, interval=self.interval)

    def _constraint(self, projection: Projection, task: Task, supports: Supports) -> SparseConstraint:
        phases = self._phases(task.training.steps)
        return Admm(projection, task.penalty, task.precision, phases, task.training, supports, task.probe_every)
