"""Elsa: surrogate-free ADMM on the language-model loss itself (arXiv:2510.01650)."""

from dataclasses import dataclass

from torch import nn

from elsa.admm.engine import Admm
from elsa.admm.loop import Training, train
from elsa.errors import require
from elsa.method import Method, Task
from elsa.model.prunable import prunable_weights


@dataclass(frozen=True, kw_only=True)
class Elsa(Method):
    """Train all parameters; pull the prunable weights to their sparse copy; project at the end.

    `interval`: steps between two z/u updates. `projection`: "objective_aware" weighs entries by Adam's second moment
    (Eq. 10 and 11), "euclidean" does not. Deliberate differences to the reference code: the projection is the paper's
    by default; u is rescaled at the moment λ changes; exact counts; one seed for everything.
    """

    interval: int
    projection: str

    reads = ("sparsity", "data", "seed", "training", "penalty")

    def __post_init__(self):
        require(self.interval >= 1, "interval", self.interval, "at least 1 step")
        known = ("objective_aware", "euclidean")
        require(self.projection in known, "projection", self.projection, f"known: {', '.join(known)}")

    def check(self, training: Training) -> None:
        within = self.interval <= training.steps
        require(within, "interval", self.interval, f"at most training.steps={training.steps}")
        has_moments = self.projection == "euclidean" or training.optimizer == "adam"
        wanted = f"needs second moments, which training.optimizer={training.optimizer} lacks; set adam, or euclidean"
        require(has_moments, "projection", self.projection, wanted)

    def apply(self, model: nn.Module, task: Task) -> dict:
        training = task.training
        windows = task.windows(training.steps * training.batch_size)
        optimizer = training.make_optimizer(model)
        admm = Admm(
            prunable_weights(model), optimizer, task.pattern, task.penalty,
            steps=training.steps, interval=self.interval, objective_aware=self.projection == "objective_aware",
        )  # fmt: skip
        train(model, optimizer, windows, training, admm, task.log)
        before = admm.distances()
        admm.project_weights()
        return {"training_tokens": windows.numel(), "before_projection": before}
