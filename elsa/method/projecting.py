"""What Elsa and gradual pruning share: the whole model trains, and its weights are projected onto the pattern."""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from elsa.errors import require
from elsa.method.base import Method, Task
from elsa.model.weights import PrunableWeight, prunable_weights
from elsa.sparsity.allocation import LEAST_DENSITY
from elsa.sparsity.pattern import Rise
from elsa.train.budget import Training
from elsa.train.optimizer import Optimizer
from elsa.train.sparse import LossMoments, Projection, SparseConstraint
from elsa.train.train import teacher_of, train

_LONG = 1024  # steps from which it has made no difference (docs/research_log.md)
_log = logging.getLogger(__name__)

Weights = dict[str, PrunableWeight]
Supports = dict[str, torch.Tensor] | None  # by name, bool


@dataclass(frozen=True, kw_only=True)
class Projecting(Method):
    """Train all parameters under a constraint that says every `interval` steps where the zeros go.

    A global budget (`sparsity.allocation`) is placed anew at every update.

    Args:
        interval: steps between two updates; null for 1 % of them.
        projection: "objective_aware" weighs the squares of entries by Adam's second moment (arXiv:2510.01650, Eq. 10
            and 11), "euclidean" does not; "loss_aware" weighs them by the second moment of the loss's gradient alone,
            which is the same but where a penalty acts through the gradient (and takes 4 bytes a weight there).
    """

    interval: int | None = 32
    projection: str = "objective_aware"

    def __post_init__(self) -> None:
        some = self.interval is None or self.interval >= 1
        require(some, "interval", self.interval, "at least 1 step, or null for 1 % of the steps")
        known = ("objective_aware", "loss_aware", "euclidean")
        require(self.projection in known, "projection", self.projection, f"known: {', '.join(known)}")

    @property
    def trains(self) -> bool:
        return True

    @property
    def _objective_aware(self) -> bool:
        return self.projection != "euclidean"

    def _loss_moments(self, task: Task) -> LossMoments | None:
        """Where Adam's would hold the pull of a penalty too."""
        if not self.uses_penalty or task.penalty.decoupled or not self._objective_aware:
            return None
        if self.projection == "loss_aware":
            return LossMoments(task.training.beta2)
        if task.training.steps < _LONG:
            _log.warning(
                "method.projection=objective_aware: this penalty acts through the gradient, and so on the moments that "
                "weigh the projection; in runs as short as this loss_aware, or penalty=auto, does better"
            )
        return None

    @property
    def _least_density(self) -> float:
        return LEAST_DENSITY

    def interval_in(self, steps: int) -> int:
        """Steps between two updates in a run of `steps`."""
        return self.interval or max(1, round(steps / 100))

    def check(self, training: Training) -> None:
        within = self.interval_in(training.steps) <= training.steps
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
                loss_moments=self._loss_moments(task), least_density=self._least_density, rise=self._rise(task),
                ranks=task.ranks,
            )  # fmt: skip
            own = supports and {name: weights[name].own_rows(support) for name, support in supports.items()}
            return self._constraint(projection, task, own)

        return train(model, constrain, task, teacher=teacher, facts=facts)

    def _start(self, model: nn.Module, weights: Weights, task: Task) -> tuple[dict[str, Any], Supports]:
        """Facts for the record, and the first supports (None for those of magnitude)."""
        return {}, None

    def _rise(self, task: Task) -> Rise:
        return Rise()

    @abstractmethod
    def _constraint(self, projection: Projection, task: Task, supports: Supports) -> SparseConstraint:
        """What the training is under."""
