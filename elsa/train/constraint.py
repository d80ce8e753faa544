"""What a method adds to plain training: it acts on gradients, after steps and at the end, and is kept with the run.

A constraint meets parameters and prunable weights by their names in `model.state_dict()`, never by the parameter
itself, which sharding replaces.
"""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from elsa.model.weights import PrunableWeight


class Constraint(Protocol):
    """What a method adds to plain training.

    `interval`: steps between two updates, at which the loop reports; None for none of its own.
    """

    interval: int | None

    @abstractmethod
    def on_gradient(self, name: str) -> None:
        """Called for every parameter `name` between clipping and the step: may change its gradient in place."""

    @abstractmethod
    def after_step(self, step: int) -> dict[str, float]:
        """Called after the optimiser's step number `step` (from 1). Returns metrics when it has any."""

    @abstractmethod
    def sparse(self) -> AbstractContextManager[object] | None:
        """Inside, the model computes with the sparse copy of its weights. None if there is none but the weights."""

    @abstractmethod
    def finish(self) -> dict[str, Any]:
        """Called once after the last step: leave the weights as promised. Returns facts for the record."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """For a checkpoint."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""


class NoConstraint:
    """Plain fine-tuning: every verb of a constraint, doing nothing."""

    interval: int | None = None

    def on_gradient(self, name: str) -> None:
        pass

    def after_step(self, step: int) -> dict[str, float]:
        return {}

    def sparse(self) -> AbstractContextManager[object] | None:
        return None

    def finish(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class FixedSupport(NoConstraint):
    """Entries of prunable weights that are zero now get no gradient, so they stay zero.

    Args:
        weights: that are held to their support, by name.
    """

    interval = 32

    def __init__(self, weights: Mapping[str, PrunableWeight]):
        self._weights = weights
        self._held = by_parameter(weights)
        self._zeros = {name: weight.value_OI == 0 for name, weight in weights.items()}

    @torch.no_grad()
    def on_gradient(self, name: str) -> None:
        for weight in self._held.get(name, ()):
            weight.gradient_OI.masked_fill_(self._zeros[weight.name], 0)

    def after_step(self, step: int) -> dict[str, float]:
        if step % self.interval == 0:
            self._check()
        return {}

    def finish(self) -> dict[str, Any]:
        self._check()
        return {}

    def _check(self) -> None:
        """Hold the live weights against the support: an optimiser that moves zeros is a bug, not a result."""
        for name, weight in self._weights.items():
            assert not (weight.value_OI * self._zeros[name]).any(), f"{name} has left the support"

    def state(self) -> dict[str, Any]:
        return {name: self._weights[name].spread(zeros) for name, zeros in self._zeros.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._zeros = {name: weight.own_rows(state[name]) for name, weight in self._weights.items()}


def by_parameter(weights: Mapping[str, PrunableWeight]) -> dict[str, list[PrunableWeight]]:
    """{name of a parameter: the prunable weights that it holds}."""
    held: dict[str, list[PrunableWeight]] = {}
    for weight in weights.values():
        held.setdefault(weight.parameter_name, []).append(weight)
    return held
