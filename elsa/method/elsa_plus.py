"""Elsa+: Elsa with what small budgets need."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from elsa.admm.engine import Admm
from elsa.admm.gradual import GradualPruning
from elsa.admm.optimizer import Stepper
from elsa.admm.state import Dual
from elsa.admm.training import Training
from elsa.errors import require
from elsa.method import Method, Task
from elsa.method.elsa import Elsa, Supports, Weights
from elsa.sparsity.pattern import Pattern

_LARGEST_START = 0.97  # of the wanted sparsity


@dataclass(frozen=True, kw_only=True)
class ElsaPlus(Elsa):
    """Elsa (arXiv:2510.01650) with gradual sparsity or another method's support, a tamed dual and a polish phase.

    `init`: the method whose support z starts with, null for magnitude's; with `init_weights` x starts from its weights
    instead of the dense ones. `retention` and `dual_step`: u ← retention · (u + dual_step · (x − z)) (1 and 1: ADMM;
    retention 0: no dual). `dual_from`: the share of the steps before the polish phase after which there is a dual.
    `dual_limit`: no entry of u exceeds this many times the way that Adam can move a weight until the next update, null
    for no limit. `polish_fraction`: the share of the steps, at the end, that train the projected weights within their
    support. `ramp_fraction`: the share of the steps, at the beginning, over which the sparsity of z rises to the wanted
    one (0: it starts there). `ramp_from`: the sparsity where the rise starts and to which `init` prunes; 97 % of the
    wanted one if that is less. `hard`: the weights themselves are projected at every update and train within their
    support until the next, instead of being drawn to it by a penalty.
    """

    init: Method | None
    init_weights: bool
    retention: float
    dual_step: float
    dual_from: float
    dual_limit: float | None
    polish_fraction: float
    ramp_fraction: float
    ramp_from: float
    hard: bool

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(group for group in Elsa.reads if not (self.hard and group == "penalty"))

    def __post_init__(self):
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

    @torch.no_grad()
    def _start(self, model: nn.Module, weights: Weights, task: Task) -> tuple[dict, Supports]:
        """Run `init`; its facts and supports. The model keeps its dense weights unless `init_weights`."""
        if self.init is None:
            return {}, None
        dense = {name: weight.value_OI.clone() for name, weight in weights.items()}
        first = task.pattern.ramped(self._ramp_start(task.pattern)) if self.ramp_fraction else task.pattern
        facts = self.init.apply(model, replace(task, pattern=first))
        supports = {name: weight.value_OI != 0 for name, weight in weights.items()}
        if not self.init_weights:
            for name, weight in weights.items():
                weight.value_OI.copy_(dense[name])
        return facts, supports

    def _ramp_start(self, pattern: Pattern) -> float:
        """How far along its cubic law the rise of the sparsity begins, 0 to 1."""
        share = self.ramp_from / max(pattern.sparsity, self.ramp_from, 1e-9)
        return 1 - (1 - min(share, _LARGEST_START)) ** (1 / 3)

    def _constraint(self, weights: Weights, stepper: Stepper, task: Task, supports: Supports) -> Admm | GradualPruning:
        if not self.hard:
            return super()._constraint(weights, stepper, task, supports)
        return GradualPruning(
            weights, stepper, task.pattern, interval=self.interval, supports=supports,
            objective_aware=self._objective_aware, **self._rise(task.training.steps, task.pattern),
        )  # fmt: skip

    def _phases(self, steps: int, pattern: Pattern) -> dict:
        polish = round(self.polish_fraction * steps)
        before = steps - polish
        return {
            "steps": before, "polish_from": before if polish else None,
            "dual": Dual(retention=self.retention, step=self.dual_step),
            "dual_from": round(self.dual_from * before), "dual_limit": self.dual_limit,
        } | self._rise(steps, pattern)  # fmt: skip

    def _rise(self, steps: int, pattern: Pattern) -> dict:
        return {"ramp": round(self.ramp_fraction * steps), "ramp_from": self._ramp_start(pattern)}
