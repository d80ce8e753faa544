"""Gradual pruning of the weights themselves, as a constraint of training: no sparse copy, no dual, no penalty."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from elsa.sparsity.pattern import Pattern
from elsa.train.sparse import Distances, Projection, SparseConstraint


class GradualPruning(SparseConstraint):
    """x ← projection of x at every update, and training within its support until the next.

    The sparsity rises as `projection.rise` says, by an update every `interval` steps. `supports`: the first ones by
    name, bool [O, I]; None for those of magnitude.
    """

    def __init__(self, projection: Projection, interval: int, supports: Mapping[str, torch.Tensor] | None = None):
        super().__init__(projection, interval)
        self._every = interval
        self._masks = dict(supports or self._first_masks())
        self.before_projection = self._distances()
        self._hold()

    def _first_masks(self) -> dict[str, torch.Tensor]:
        chosen = self._projection.first_selectors()
        return {name: chosen[name].mask(self._projection.magnitudes(name)) for name in self._weights}

    @torch.no_grad()
    def on_gradient(self, name: str) -> None:
        for weight in self._projection.held.get(name, ()):
            weight.gradient_OI.mul_(self._masks[weight.name])

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        self._hold()  # momentum would move what is pruned
        # one update at or after the end of the rise, so that it gets to the pattern
        rises = step - self._every < self._projection.rise.steps
        return self._update(step) if rises and step % self._every == 0 else {}

    @torch.no_grad()
    def _hold(self) -> None:
        for name, weight in self._weights.items():
            weight.value_OI.mul_(self._masks[name])

    def _update(self, step: int) -> dict[str, float]:
        before = self._masks
        self._move_to(self._projection.at(step))
        metrics = self._note_flips(step, {n: (mask != before[n]).sum() for n, mask in self._masks.items()})
        return metrics | self.before_projection.metrics()

    def _move_to(self, pattern: Pattern) -> None:
        """x ← projection of x onto the pattern, and its support is the new one."""
        score_of = self._projection.saliency
        chosen = self._projection.selectors(self._projection.patterns(pattern), score_of)
        self._masks = {name: chosen[name].mask(score_of(name)) for name in self._weights}
        self.before_projection = self._distances()
        self._hold()

    @torch.no_grad()
    def _distances(self) -> Distances:
        """How far x is from its part on the supports."""

        def sums() -> Iterator[torch.Tensor]:
            for name, mask in self._masks.items():
                energy = self._weights[name].value_OI.float().square()
                off = (energy * ~mask).sum()
                yield torch.stack([off, energy.sum() - off, off, energy.sum(), (~mask).sum()])

        return Distances.of(sums(), self._projection.ranks)

    def sparse(self) -> None:
        """There is no copy: the weights are sparse."""

    def _project_weights(self) -> None:
        """Changes something only if the rise has not got to the pattern."""
        self._move_to(self._projection.pattern)

    def verdict(self) -> str:
        removed = f"the last projection removes {self.before_projection.energy:.2%} of their energy"
        return f"the weights have trained within their support: {removed}"

    @property
    def nbytes(self) -> int:
        return sum(mask.nbytes for mask in self._masks.values())

    def state(self) -> dict[str, Any]:
        return super().state() | {"masks": self._spread(self._masks)}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._masks = self._own_rows(state["masks"])
