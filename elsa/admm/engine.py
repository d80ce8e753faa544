"""ADMM over all prunable weights, as a constraint of the training loop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from elsa.admm.penalty import Penalty
from elsa.admm.state import SplitState
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
        optimizer: torch.optim.Optimizer,
        pattern: Pattern,
        penalty: Penalty,
        *,
        steps: int,
        interval: int,
        objective_aware: bool,
    ):
        self._weights, self._optimizer, self._pattern, self._schedule = weights, optimizer, pattern, penalty
        self._steps, self.interval, self._objective_aware = steps, interval, objective_aware
        self._states = {name: SplitState.start(weight.value_OI, pattern) for name, weight in weights.items()}
        self.penalty = penalty.at(min(1.0, interval / steps))

    @torch.no_grad()
    def add_gradient(self) -> None:
        for name, weight in self._weights.items():
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
            energy = value.square()
            off, total = off + (energy * ~state.kept).sum(), total + energy.sum()
        return {"relative_residual": float((residual / sparse).sqrt()), "off_support_energy": float(off / total)}

    @torch.no_grad()
    def project_weights(self) -> None:
        """x ← projection of x onto the pattern, weighed as in the z-update: the end of the run."""
        for weight in self._weights.values():
            weight.value_OI.copy_(project(weight.value_OI, self._pattern, self._importance(weight)))

    def _importance(self, weight: "PrunableWeight") -> torch.Tensor | None:
        return weight.as_OI(self._optimizer.state[weight.parameter]["exp_avg_sq"]) if self._objective_aware else None

    def _numel(self) -> int:
        return sum(weight.parameter.numel() for weight in self._weights.values())
