"""Gradual pruning: the weights themselves are projected while the sparsity rises, and train within their support."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from elsa.errors import require
from elsa.method.base import Method, Task
from elsa.method.projecting import Projecting, Supports, Weights
from elsa.sparsity.pattern import Pattern, Rise
from elsa.train.budget import Training
from elsa.train.gradual import GradualPruning
from elsa.train.sparse import Projection, SparseConstraint

_LARGEST_START = 0.97  # of the wanted sparsity


@dataclass(frozen=True, kw_only=True)
class Gradual(Projecting):
    """The engine of BEST and Elsa+.

    Args:
        start: the method whose support the training starts with; null for magnitude's.
        start_weights: start from its weights too, instead of the dense ones.
        ramp_fraction: the share of the steps, at the beginning, over which the sparsity rises to the wanted one by a
            cubic law (0: it starts there).
        ramp_from: the sparsity where the rise starts and to which `start` prunes; 97 % of the wanted one if that is
            less.
        warmup_fraction: the share of the steps over which the learning rate rises, where `training.warmup_steps` is
            null.
        least_density: under a global budget no weight keeps less than this share of what it would under equal ones.
    """

    start: Method | None = None
    start_weights: bool = True
    ramp_fraction: float = 0.5
    ramp_from: float = 0.0
    warmup_fraction: float = 0.0
    least_density: float = 0.0

    @property
    def first(self) -> Method | None:
        return self.start

    @property
    def allocation(self) -> str:
        return "global"

    @property
    def _least_density(self) -> float:
        return self.least_density

    def warmup_steps(self, steps: int) -> int:
        return round(self.warmup_fraction * steps)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.ramp_fraction <= 1, "ramp_fraction", self.ramp_fraction, "a share of the steps")
        require(0 <= self.ramp_from < 1, "ramp_from", self.ramp_from, "a sparsity, 0 (dense) to below 1")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "a share of the steps below 1")
        share = 0 <= self.least_density <= 1
        require(share, "least_density", self.least_density, "0 (no floor) to 1 (equal shares)")

    def check_pattern(self, pattern: Pattern) -> None:
        super().check_pattern(pattern)
        if self.start is not None:
            self.start.check_pattern(pattern)

    def draws(self, training: Training) -> set[int]:
        return super().draws(training) | (set() if self.start is None else self.start.draws(training))

    @torch.no_grad()
    def _start(self, model: nn.Module, weights: Weights, task: Task) -> tuple[dict[str, Any], Supports]:
        """Run `start`; its facts and supports. The model keeps its dense weights unless `start_weights`."""
        if self.start is None:
            return {}, None
        dense = {} if self.start_weights else {name: weight.value_OI.clone() for name, weight in weights.items()}
        first = task.pattern.ramped(self._ramp_start(task.pattern)) if self.ramp_fraction else task.pattern
        facts = self.start.apply(model, replace(task, pattern=first))
        supports = {name: weight.value_OI != 0 for name, weight in weights.items()}
        for name, values in dense.items():
            weights[name].write(values)
        return facts, supports

    def _ramp_start(self, pattern: Pattern) -> float:
        """How far along its cubic law the rise of the sparsity begins, 0 to 1."""
        # the inverse of `Pattern.ramped`; the smallest number is for a sparsity of 0
        share = self.ramp_from / max(pattern.sparsity, self.ramp_from, 1e-9)
        return float(1 - (1 - min(share, _LARGEST_START)) ** (1 / 3))

    def _rise(self, task: Task) -> Rise:
        return Rise(round(self.ramp_fraction * task.training.steps), self._ramp_start(task.pattern))

    def _constraint(self, projection: Projection, task: Task, supports: Supports) -> SparseConstraint:
        return GradualPruning(projection, self.interval_in(task.training.steps), supports)
