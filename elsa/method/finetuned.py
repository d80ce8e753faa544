"""Masked fine-tuning after another method: the control row of every method that trains."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from elsa.admm.loop import NoConstraint, train
from elsa.method import Method, Task
from elsa.method.dense import Dense
from elsa.model.prunable import PrunableWeight, prunable_weights


@dataclass(frozen=True, kw_only=True)
class FineTuned(Method):
    """Apply `start`, then train on the real loss with the support of the prunable weights held fixed.

    Same loop, data, schedule and number of tokens as Elsa: both read the group `training`. With `start=dense` nothing
    is held: plain fine-tuning, which shows what the tokens alone are worth.
    """

    start: Method

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple({*self.start.reads, "data", "seed", "training"})

    def apply(self, model: nn.Module, task: Task) -> dict:
        facts = self.start.apply(model, task)
        training = task.training
        windows = task.windows(training.steps * training.batch_size)
        optimizer = training.make_optimizer(model)
        constraint = NoConstraint() if isinstance(self.start, Dense) else FixedSupport(prunable_weights(model))
        train(model, optimizer, windows, training, constraint, task.log)
        constraint.check()
        return facts | {"training_tokens": windows.numel()}


class FixedSupport(NoConstraint):
    """A constraint of the training loop: entries that are zero now get no gradient, so they stay zero."""

    interval = 32

    def __init__(self, weights: Mapping[str, PrunableWeight]):
        self._pruned = {name: (weight, weight.value_OI == 0) for name, weight in weights.items()}

    @torch.no_grad()
    def add_gradient(self) -> None:
        for weight, zeros in self._pruned.values():
            weight.gradient_OI.masked_fill_(zeros, 0)

    def after_step(self, step: int) -> dict:
        if step % self.interval == 0:
            self.check()
        return {}

    @torch.no_grad()
    def check(self) -> None:
        """Hold the live parameters against the support: an optimiser that moves zeros is a bug, not a result."""
        for name, (weight, zeros) in self._pruned.items():
            assert not (weight.value_OI * zeros).any(), f"{name} has left the support"
