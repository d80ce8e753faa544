"""ADMM over all prunable weights, as a constraint of the training loop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from elsa.admm.optimizer import Stepper
from elsa.admm.penalty import Penalty
from elsa.admm.precision import Precision
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project

if TYPE_CHECKING:
    from elsa.model.prunable import PrunableWeight


class Admm:
    """minimise f(x) subject to x = z, z in the pattern (arXiv:2510.01650).

    Every step adds λ(x − z + u) to the gradient. Every `interval` steps z and u are updated, then λ moves on and the
    scaled dual is rescaled at that moment. `objective_aware`: projections weigh entries by Adam's second moment.
    """

    def __init__(
        self,
        weights: Mapping[str, "PrunableWeight"],
        stepper: Stepper,
        pattern: Pattern,
        penalty: Penalty,
        precision: Precision,
        *,
        steps: int,
        interval: int,
        objective_aware: bool,
    ):
        self._weights, self._stepper, self._pattern, self._schedule = weights, stepper, pattern, penalty
        self._steps, self.interval, self._objective_aware = steps, interval, objective_aware
        self._states = {name: precision.start_state(weight.value_OI, pattern) for name, weight in weights.items()}
        self._name_of = {weight.parameter: name for name, weight in weights.items()}
        self.penalty = penalty.at(min(1.0, interval / steps))

    @torch.no_grad()
    def add_gradient(self, parameter: nn.Parameter) -> None:
        name = self._name_of.get(parameter)
        if name is not None:
            weight = self._weights[name]
            self._states[name].add_proximal_gradient(weight.gradient_OI, weight.value_OI, self.penalty)

    @torch.no_grad()
    def after_step(self, step: int) -> dict:
        if step % self.interval:
            return {}
        changed = sum(
            self._states[name].update(weight.value_OI, self._pattern, self._importance(weight))
            for name, weight in self._weights.items()
        )
        metrics = {"penalty": self.penalty, "mask_change": changed / self._numel()} | self.distances()
        following = self._schedule.at(min(1.0, (step + self.interval) / self._steps))
        if following != self.penalty:
            for state in self._states.values():
                state.rescale_dual(self.penalty / following)
            self.penalty = following
        return metrics

    @torch.no_grad()
    def distances(self) -> dict:
        """‖x − z‖ / ‖z‖ over all weights, and the share of the weights' energy that lies off the support."""
        residual = sparse = off = total = 0.0
        for name, weight in self._weights.items():
            state, value = self._states[name], weight.value_OI
            squares = state.residual_squared(value)
            residual, sparse = residual + squares[0], sparse + squares[1]
            energy = value.float().square()
            off, total = off + (energy * ~state.kept()).sum(), total + energy.sum()
        return {"relative_residual": float((residual / sparse).sqrt()), "off_support_energy": float(off / total)}

    @torch.no_grad()
    def project_weights(self) -> None:
        """x ← projection of x onto the pattern, weighed as in the z-update: the end of the run."""
        for weight in self._weights.values():
            weight.value_OI.copy_(project(weight.value_OI, self._pattern, self._importance(weight)))

    @property
    def nbytes(self) -> int:
        """Bytes of z, u and mask that are really held."""
        return sum(state.nbytes for state in self._states.values())

    def state(self) -> dict:
        return {"penalty": self.penalty, "states": {name: state.state() for name, state in self._states.items()}}

    def restore(self, state: dict) -> None:
        self.penalty = state["penalty"]
        for name, its_state in self._states.items():
            its_state.restore(state["states"][name])

    def _importance(self, weight: "PrunableWeight") -> torch.Tensor | None:
        return weight.as_OI(self._stepper.second_moment(weight.parameter)) if self._objective_aware else None

    def _numel(self) -> int:
        return sum(weight.parameter.numel() for weight in self._weights.values())
