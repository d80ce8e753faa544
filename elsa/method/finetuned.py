"""Masked fine-tuning after another method: the control row of every method that trains."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from elsa.method.base import Following, Method, Task
from elsa.method.dense import Dense
from elsa.model.weights import prunable_weights
from elsa.train.constraint import Constraint, FixedSupport, NoConstraint
from elsa.train.optimizer import Optimizer
from elsa.train.train import teacher_of, train


@dataclass(frozen=True, kw_only=True)
class FineTuned(Following):
    """Apply `start`, then train on the real loss with the support of the prunable weights held fixed.

    Same loop, data, schedule and number of tokens as Elsa: both read the group `training`. With `start=dense` nothing
    is held: plain fine-tuning, which shows what the tokens alone are worth.

    Args:
        start: the method whose mask and weights it goes on from.
    """

    start: Method = field(default_factory=Dense)

    @property
    def prunes(self) -> bool:
        return self.start.prunes

    @property
    def trains(self) -> bool:
        return True

    @property
    def uses_penalty(self) -> bool:
        return self.start.uses_penalty

    def warmup_steps(self, steps: int) -> int:
        return self.start.warmup_steps(steps)

    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        teacher = teacher_of(model, task)  # before the start method changes it
        facts = {} if task.checkpoints.exist() else self.start.apply(model, task)

        def constrain(optimizer: Optimizer) -> Constraint:
            return FixedSupport(prunable_weights(model)) if self.prunes else NoConstraint()

        return train(model, constrain, task, teacher=teacher, facts=facts)
