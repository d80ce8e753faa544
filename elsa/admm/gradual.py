"""Gradual pruning of the weights themselves, as a constraint of the training loop: no sparse copy, no dual, no λ."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from elsa.admm.diagnosis import Distances
from elsa.admm.optimizer import Stepper
from elsa.sparsity.allocation import patterns_of
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import saliency

if TYPE_CHECKING:
    from elsa.model.prunable import PrunableWeight


class GradualPruning:
    """x ← projection of x at every update, and training within its support until the next: Admm with λ → ∞.

    The sparsity rises to the pattern's over the first `ramp` steps, by an update every `interval` steps (0: it is there
    from the start); `ramp_from`: how far along the rise it begins, 0 to 1. `objective_aware`: projections weigh entries
    by Adam's second moment. `supports`: the first ones by name, None for those of magnitude.
    """

    def __init__(
        self,
        weights: Mapping[str, "PrunableWeight"],
        stepper: Stepper,
        pattern: Pattern,
        *,
        interval: int,
        objective_aware: bool,
        ramp: int,
        ramp_from: float,
        supports: Mapping[str, torch.Tensor] | None = None,
    ):
        self._weights, self._stepper, self._pattern = weights, stepper, pattern
        self.interval, self._objective_aware, self._ramp, self._ramp_from = interval, objective_aware, ramp, ramp_from
        self._name_of = {weight.parameter: name for name, weight in weights.items()}
        self._sizes = {name: weight.parameter.numel() for name, weight in weights.items()}
        start = pattern.rising(0, ramp, ramp_from)
        self._kept = supports or {name: start.mask(saliency(weight.value_OI)) for name, weight in weights.items()}
        self.mask_changes: dict[int, dict[str, float]] = {}  # by step and weight, the share of entries that changed
        self.before_projection = self._distances(self._kept)  # so far of the last update
        self._hold()

    @torch.no_grad()
    def add_gradient(self, parameter: nn.Parameter) -> None:
        if parameter in self._name_of:
            name = self._name_of[parameter]
            self._weights[name].gradient_OI.mul_(self._kept[name])

    @torch.no_grad()
    def after_step(self, step: int) -> dict:
        self._hold()  # momentum would move what is pruned
        rises = step - self.interval < self._ramp
        return self._update(step) if rises and step % self.interval == 0 else {}

    @torch.no_grad()
    def _hold(self) -> None:
        for name, weight in self._weights.items():
            weight.value_OI.mul_(self._kept[name])

    def _update(self, step: int) -> dict:
        before, self._kept = self._kept, self._supports(self._pattern.rising(step, self._ramp, self._ramp_from))
        flips = {name: int((kept != before[name]).sum()) for name, kept in self._kept.items()}
        self.mask_changes[step] = {name: count / self._sizes[name] for name, count in flips.items()}
        self.before_projection = self._distances(self._kept)
        self._hold()
        return {"mask_change": sum(flips.values()) / sum(self._sizes.values())} | self.before_projection.metrics()

    def _supports(self, pattern: Pattern) -> dict[str, torch.Tensor]:
        patterns = patterns_of(pattern, self._sizes, self._saliency)
        return {name: patterns[name].mask(self._saliency(name)) for name in self._weights}

    def _saliency(self, name: str) -> torch.Tensor:
        weight = self._weights[name]
        moment = self._stepper.second_moment(weight.parameter) if self._objective_aware else None
        return saliency(weight.value_OI.float(), None if moment is None else weight.as_OI(moment))

    @torch.no_grad()
    def _distances(self, supports: Mapping[str, torch.Tensor]) -> Distances:
        """How far x is from its part on `supports`."""

        def sums() -> Iterator[torch.Tensor]:
            for name, kept in supports.items():
                energy = self._weights[name].value_OI.float().square()
                off = (energy * ~kept).sum()
                yield torch.stack([off, energy.sum() - off, off, energy.sum(), (~kept).sum()])

        return Distances.of(sum(sums()))

    def sparse(self) -> None:
        """There is no copy: the weights are sparse."""

    @torch.no_grad()
    def project_weights(self) -> None:
        """x ← projection of x onto the pattern, which changes something only if the rise has not got there."""
        self._kept = self._supports(self._pattern)
        self.before_projection = self._distances(self._kept)
        self._hold()

    def verdict(self) -> str:
        """What the last projection did to the weights, in words."""
        removed = f"the last projection removes {self.before_projection.energy:.2%} of their energy"
        return f"the weights have trained within their support: {removed}"

    @property
    def nbytes(self) -> int:
        """Bytes of the masks."""
        return sum(kept.nbytes for kept in self._kept.values())

    def state(self) -> dict:
        return {
            "kept": self._kept, "mask_changes": self.mask_changes, "before_projection": tuple(self.before_projection),
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        self._kept = {name: kept.to(self._weights[name].value_OI.device) for name, kept in state["kept"].items()}
        self.mask_changes, self.before_projection = state["mask_changes"], Distances(*state["before_projection"])
