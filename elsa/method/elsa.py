"""Elsa: surrogate-free ADMM on the language-model loss itself (arXiv:2510.01650)."""

from dataclasses import dataclass

import torch

from elsa.admm.engine import Admm
from elsa.admm.phases import Phases
from elsa.admm.state import start_state
from elsa.method.base import Task
from elsa.method.projecting import Projecting, Supports
from elsa.sparsity.pattern import Pattern
from elsa.train.precision import Precision
from elsa.train.sparse import Projection, SparseConstraint


def admm_bytes(precision: Precision, projection: str) -> float:
    """Bytes a weight of z, u and mask, as really held for a matrix of 64 x 4,096, and of the loss's moments."""
    state = start_state(torch.ones(64, 4096), Pattern(pattern="unstructured", ratio=0.5), precision)
    return state.nbytes / (64 * 4096) + (4 if projection == "loss_aware" else 0)


@dataclass(frozen=True, kw_only=True)
class Elsa(Projecting):
    """Train all parameters; pull the prunable weights to their sparse copy; project at the end.

    arXiv:2510.01650. Deliberate differences to the reference code: the projection is the paper's by default; u is
    rescaled at the moment λ changes; exact counts; one seed for everything.

    Args:
        interval: steps between two z/u updates; null for 1 % of the steps.
    """

    @property
    def uses_penalty(self) -> bool:
        return True

    def state_bytes(self, precision: Precision) -> float:
        return admm_bytes(precision, self.projection)

    def _constraint(self, projection: Projection, task: Task, supports: Supports) -> SparseConstraint:
        steps = task.training.steps
        phases = Phases(steps=steps, interval=self.interval_in(steps))
        return Admm(projection, task.penalty, task.precision, phases, task.training, supports, task.probe_every)
