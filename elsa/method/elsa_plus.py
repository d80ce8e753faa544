"""Elsa+: gradual pruning with what small budgets need, or Elsa with it."""

from dataclasses import dataclass, field

from elsa.admm.engine import Admm
from elsa.admm.phases import Phases
from elsa.admm.state import Dual
from elsa.errors import require
from elsa.method.alps import Alps
from elsa.method.base import Method, Task
from elsa.method.elsa import admm_bytes
from elsa.method.gradual import Gradual
from elsa.method.projecting import Supports
from elsa.sparsity.allocation import LEAST_DENSITY
from elsa.train.budget import Training
from elsa.train.precision import Precision
from elsa.train.sparse import Projection, SparseConstraint


@dataclass(frozen=True, kw_only=True)
class ElsaPlus(Gradual):
    """BEST from another method's weights, with a faster rise, a floor for every layer, and hidden states to learn from.

    The weights themselves are projected at every update and train within their support until the next. With
    `hard=False` they are drawn to their sparse copy z by a penalty, as Elsa (arXiv:2510.01650) does, while the sparsity
    of z rises; the last five arguments shape how.

    Args:
        interval: steps between two updates; null for 1 % of them.
        start: the method that prunes to `ramp_from` at first; null for magnitude's mask on the dense weights.
        ramp_fraction: the share of the steps over which the sparsity rises by a cubic law.
        ramp_from: the sparsity where the rise starts.
        warmup_fraction: the share of the steps over which the learning rate rises.
        least_density: no weight keeps less than this share of what it would under equal ones.
        hidden_distillation: its weight where there is distillation and `training.hidden_distillation` is null.
        hard: project the weights themselves; false: draw them to a sparse copy.
        retention: u ← retention · (u + dual_step · (x − z)); 0: no dual, 1: ADMM.
        dual_step: see `retention`; 1: ADMM.
        dual_from: the share of the steps before the polish phase after which there is a dual.
        dual_limit: no entry of u exceeds this many times the way that Adam can move a weight until the next update;
            null for no limit.
        polish_fraction: the share of the steps, at the end, that train the projected weights within their support.
    """

    interval: int | None = 8
    start: Method | None = field(default_factory=Alps)
    ramp_fraction: float = 0.3
    ramp_from: float = 0.65
    warmup_fraction: float = 0.1
    least_density: float = LEAST_DENSITY
    hidden_distillation: float = 1.0
    hard: bool = True
    retention: float = 0.0
    dual_step: float = 1.0
    dual_from: float = 0.0
    dual_limit: float | None = None
    polish_fraction: float = 0.65

    @property
    def uses_penalty(self) -> bool:
        return not self.hard

    def state_bytes(self, precision: Precision) -> float:
        return super().state_bytes(precision) if self.hard else admm_bytes(precision, self.projection)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden_distillation >= 0, "hidden_distillation", self.hidden_distillation, "a weight from 0 up")
        require(0 <= self.retention <= 1, "retention", self.retention, "from 0 (no dual) to 1 (ADMM)")
        require(0 < self.dual_step <= 1, "dual_step", self.dual_step, "above 0, at most 1 (ADMM)")
        require(0 <= self.dual_from < 1, "dual_from", self.dual_from, "a share of the steps below 1")
        bounded = self.dual_limit is None or self.dual_limit > 0
        require(bounded, "dual_limit", self.dual_limit, "above 0, or null for no limit")
        shaped = (self.dual_step, self.dual_from, self.dual_limit) != (1, 0, None)
        wanted = "above 0: dual_step, dual_from and dual_limit shape a dual that is not there"
        require(self.retention > 0 or not shaped, "retention", self.retention, wanted)
        require(0 <= self.polish_fraction < 1, "polish_fraction", self.polish_fraction, "a share of the steps below 1")
        gradual = self.ramp_fraction <= 1 - self.polish_fraction
        wanted = f"a share of the steps, at most the {1 - self.polish_fraction:g} before the polish phase"
        require(gradual, "ramp_fraction", self.ramp_fraction, wanted)
        no_dual = not self.hard or self.retention == 0
        require(no_dual, "retention", self.retention, "0 with hard=true, which leaves no distance for a dual to gather")

    def check(self, training: Training) -> None:
        super().check(training)
        bounded = self.dual_limit is None or training.optimizer == "adam"
        wanted = f"null: steps of training.optimizer={training.optimizer} have no bound to measure it by"
        require(bounded, "dual_limit", self.dual_limit, wanted)
        before = training.steps - round(self.polish_fraction * training.steps)
        fits = self.interval_in(training.steps) <= before
        require(
            fits, "interval", self.interval, f"at most the {before} steps before polish_fraction={self.polish_fraction}"
        )

    def _phases(self, steps: int) -> Phases:
        polish = round(self.polish_fraction * steps)
        before = steps - polish
        return Phases(
            steps=before, interval=self.interval_in(steps), polish_from=before if polish else None,
            dual=Dual(retention=self.retention, step=self.dual_step),
            dual_from=round(self.dual_from * before), dual_limit=self.dual_limit,
        )  # fmt: skip

    def _constraint(self, projection: Projection, task: Task, supports: Supports) -> SparseConstraint:
        if self.hard:
            return super()._constraint(projection, task, supports)
        phases = self._phases(task.training.steps)
        return Admm(projection, task.penalty, task.precision, phases, task.training, supports, task.probe_every)
