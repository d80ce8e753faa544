"""Masked fine-tuning after another method: the control row of every method that trains."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from elsa.admm.loop import Loop, NoConstraint
from elsa.admm.optimizer import Stepper
from elsa.method import Method, Task, state_bytes, teacher_of, trainable
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
        return tuple({*self.start.reads, "data", "seed", "training", "precision"})

    def apply(self, model: nn.Module, task: Task) -> dict:
        training, precision = task.training, task.precision
        teacher = teacher_of(model, training, precision)
        facts = {} if task.checkpoints.exist() else self.start.apply(model, task)
        windows = training.windows(task.windows)
        with precision.applied(model):
            stepper = Stepper(trainable(model), training, precision)
            free = isinstance(self.start, Dense)
            constraint = NoConstraint() if free else FixedSupport(prunable_weights(model))
            loop = Loop(model, stepper, training, precision, constraint, facts, teacher, task.probe_every)
            loop.run(windows, task.log, task.checkpoints)
        constraint.check()
        return loop.facts | {"training_tokens": windows.numel(), "bytes": state_bytes(model, stepper)}


class FixedSupport(NoConstraint):
    """A constraint of the training loop: entries that are zero now get no gradient, so they stay zero."""

    interval = 32

    def __init__(self, weights: Mapping[str, PrunableWeight]):
        self._weights = {name: weight.parameter for name, weight in weights.items()}
        self._zeros = {parameter: parameter == 0 for parameter in self._weights.values()}

    @torch.no_grad()
    def add_gradient(self, parameter: nn.Parameter) -> None:
        if parameter in self._zeros:
            parameter.grad.masked_fill_(self._zeros[parameter], 0)

    def after_step(self, step: int) -> dict:
        if step % self.interval == 0:
            self.check()
        return {}

    @torch.no_grad()
    def check(self) -> None:
        """Hold the live parameters against the support: an optimiser that moves zeros is a bug, not a result."""
        for name, parameter in self._weights.items():
            assert not (parameter * self._zeros[parameter]).any(), f"{name} has left the support"

    def state(self) -> dict:
        return {name: self._zeros[parameter] for name, parameter in self._weights.items()}

    def restore(self, state: dict) -> None:
        for name, parameter in self._weights.items():
            self._zeros[parameter] = state[name].to(parameter.device)
