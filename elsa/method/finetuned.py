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
        return facts | {"training_tokens": windows.numel()}


class FixedSupport(NoConstraint):
    """A constraint of the training loop: entries that are zero now get no gradient, so they stay zero."""

    def __init__(self, weights: Mapping[str, PrunableWeight]):
        self._pruned = [(weight, weight.value_OI == 0) for weight in weights.values()]

    @torch.no_grad()
    def add_gradient(self) -> None:
        for weight, zeros in self._pruned:
            weight.gradient_OI.masked_fill_(zeros, 0)
