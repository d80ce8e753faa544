"""Elsa+: Elsa with what small budgets need."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from elsa.admm.phases import Phases
from elsa.admm.state import Dual
from elsa.errors import require
from elsa.method.alps import Alps
from elsa.method.base import Method, Task
from elsa.method.elsa import Elsa, Supports, Weights
from elsa.sparsity.pattern import Pattern, Rise
from elsa.train.budget import Training
from elsa.train.gradual import GradualPruning
from elsa.train.precision import Precision
from elsa.train.sparse import Projection, SparseConstraint

_LARGEST_START = 0.97  # of the wanted sparsity


@dataclass(frozen=True, kw_only=True)
class ElsaPlus(Elsa):
    """Elsa (arXiv:2510.01650) with gradual sparsity or another method's support, a tamed dual and a polish phase.

    `start`: the method whose support z starts with, null for magnitude's; with `start_weights` x starts from its
    weights instead of the dense ones. `retention` and `dual_step`: u ← retention · (u + dual_step · (x − z)) (1 and 1:
    ADMM; retention 0: no dual). `dual_from`: the share of the steps before the polish phase after which there is a
    dual. `dual_limit`: no entry of u exceeds this many times the way that Adam can move a weight until the next
    update, null for no limit. `polish_fraction`: the share of the steps, at the end, that train the projected weights
    within their support. `ramp_fraction`: the share of the steps, at the beginning, over which the sparsity of z rises
    to the wanted one (0: it starts there). `ramp_from`: the sparsity where the rise starts and to which `start`
    prunes; 97 % of the wanted one if that is less. `hard`: the weights themselves are projected at every update and
    train within their support until the next, instead of being drawn to it by a penalty.
    """

    interval: int = 8
    start: Method | None = field(default_factory=Alps)
    start_weights: bool = True
    retention: float = 0.0
    dual_step: float = 1.0
    dual_from: float = 0.0
    dual_limit: float | None = None
    polish_fraction: float = 0.65
    ramp_fraction: float = 0.3
    ramp_from: float = 0.65
    hard: bool = True

    @property
    def first(self) -> Method | None:
        return self.start

    @property
    def uses_penalty(self) -> bool:
        return not self.hard

    def state_bytes(self, precision: Precision) -> float:
        return Method.state_bytes(self, precision) if self.hard else super().state_bytes(precision)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.retention <= 1, "retention", self.retention, "from 0 (no dual) to 1 (ADMM)")
        require(0 < self.dual_step <= 1, "dual_step", self.dual_step, "above 0, at most 1 (ADMM)")
        require(0 <= self.dual_from < 1, "dual_from", self.dual_from, "a share of the steps below 1")
        bounded = self.dual_limit is None or self.dual_limit > 0
        require(bounded, "dual_limit", self.dual_limit, "above 0, or null for no limit")
        shaped = (self.dual_step, self.dual_from, self.dual_limit) != (1, 0, None)
        wanted = "above 0: dual_step, dual_from and dual_limit shape a dual that is not there"
        require(self.retention > 0 or not shaped, "retention", self.retention, wanted)
        require(0 <= self.polish_fraction < 1, "polish_fraction", self.polish_fraction, "a share of the steps below 1")
        gradual = 0 <= self.ramp_fraction <= 1 - self.polish_fraction
        wanted = f"a share of the steps, at most the {1 - self.polish_fraction:g} before the polish phase"
        require(gradual, "ramp_fraction", self.ramp_fraction, wanted)
        no_dual = not self.hard or self.retention == 0
        require(no_dual, "retention", self.retention, "0 with hard=true, which leaves no distance for a dual to gather")
        require(0 <= self.ramp_from < 1, "ramp_from", self.ramp_from, "a sparsity, 0 (dense) to below 1")

    def check(self, training: Training) -> None:
        super().check(training)
        bounded = self.dual_limit is None or training.optimizer == "adam"
        wanted = f"null: steps of training.optimizer={training.optimizer} have no bound to measure it by"
        require(bounded, "dual_limit", self.dual_limit, wanted)
        before = training.steps - round(self.polish_fraction * training.steps)
        fits = self.interval <= before
        require(
            fits, "interval", self.interval, f"at most the {before} steps before polish_fraction={self.polish_fraction}"
        )

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
        share = self.ramp_from / max(pattern.sparsity, self.ramp_from, 1e-9)
        return float(1 - (1 - min(share, _LARGEST_START)) ** (1 / 3))

    def _rise(self, task: Task) -> Rise:
        return Rise(round(self.ramp_fraction * task.training.steps), self._ramp_start(task.pattern))

    def _phases(self, steps: int) -> Phases:
        polish = round(self.polish_fraction * steps)
        before = steps - polish
        return Phases(
            steps=before, interval=self.interval, polish_from=before if polish else None,
            dual=Dual(retention=self.retention, step=self.dual_step),
            dual_from=round(self.dual_from * before), dual_limit=self.dual_limit,
        )  # fmt: skip

    def _constraint(self, projection: Projection, task: Task, supports: Supports) -> SparseConstraint:
        if self.hard:
            return GradualPruning(projection, self.interval, supports)
        return super()._constraint(projection, task, supports)
