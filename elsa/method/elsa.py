"""Elsa: surrogate-free ADMM on the language-model loss itself (arXiv:2510.01650)."""

from dataclasses import dataclass

from torch import nn

from elsa.admm.engine import Admm
from elsa.admm.loop import Training, train
from elsa.errors import require
from elsa.method import Method, Task
from elsa.model.prunable import prunable_weights


@dataclass(frozen=True, kw_only=True)
class Elsa(Training, Method):
    """Train all parameters; pull the prunable weights to their sparse copy; project at the end.

    `interval`: steps between two z/u updates. `projection`: "objective_aware" weighs entries by Adam's second moment
    (Eq. 10 and 11), "euclidean" does not. Deliberate differences to the reference code: the projection is the paper's
    by default; u is rescaled at the moment λ changes; exact counts; one seed for everything.
    """

    interval: int
    projection: str

    reads = ("sparsity", "data", "seed", "penalty")

    def __post_init__(self):
        super().__post_init__()
        within = 1 <= self.interval <= self.steps
        require(within, "interval", self.interval, f"from 1 to steps={self.steps}")
        known = ("objective_aware", "euclidean")
        require(self.projection in known, "projection", self.projection, f"known: {', '.join(known)}")
        has_moments = self.projection == "euclidean" or self.optimizer == "adam"
        wanted = f"needs second moments, which optimizer={self.optimizer} has not; set optimizer=adam or euclidean"
        require(has_moments, "projection", self.projection, wanted)

    def apply(self, model: nn.Module, task: Task) -> dict:
        windows = task.windows(self.steps * self.batch_size)
        optimizer = self.make_optimizer(model)
        admm = Admm(
            prunable_weights(model), optimizer, task.pattern, task.penalty,
            steps=self.steps, interval=self.interval, objective_aware=self.projection == "objective_aware",
        )  # fmt: skip
        train(model, optimizer, windows, self, admm, task.log)
        before = admm.distances()
        admm.project_weights()
        return {"training_tokens": windows.numel(), "before_projection": before}
