"""What all constraints that make weights sparse share: where the zeros go, and how far the weights are from that."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, NamedTuple

import torch

from elsa.distributed.ranks import ONE, Ranks
from elsa.model.weights import PrunableWeight
from elsa.sparsity.allocation import LEAST_DENSITY, patterns_by_level, patterns_of
from elsa.sparsity.pattern import Pattern, Rise, Selector, selectors
from elsa.sparsity.projection import saliency
from elsa.train.constraint import Constraint, by_parameter
from elsa.train.optimizer import Optimizer

_LEAST = 1e-30  # far below any moment: entries of an expert that no token has reached go by their magnitude
_log = logging.getLogger(__name__)


class Distances(NamedTuple):
    """Of all weights from their sparse copies."""

    residual: float  # ‖x − z‖ / ‖z‖
    energy: float  # share of the weights' energy that lies off the support
    rms: float  # root mean square of the weights there

    @classmethod
    def of(cls, sums: Iterable[torch.Tensor], ranks: Ranks = ONE) -> "Distances":
        """From ‖x − z‖², ‖z‖², the energy of x off the support and in all, and how many entries are off it, of each."""
        residual, sparse, off, total, pruned = ranks.sum_(reduce(torch.add, sums))
        return cls(*torch.stack([(residual / sparse).sqrt(), off / total, (off / pruned.clamp_min(1)).sqrt()]).tolist())

    def metrics(self) -> dict[str, float]:
        """As they are logged and recorded."""
        return {
            "relative_residual": self.residual, "off_support_energy": self.energy, "off_support_rms": self.rms,
        }  # fmt: skip


class LossMoments:
    """A running mean of the loss's squared gradients, fp32, of the weights for which `add` is called.

    Adam's own second moment holds the pull of a penalty that acts through the gradient too, so that what is pulled off
    the support looks important. `decay`: Adam's β₂.
    """

    def __init__(self, decay: float):
        self._decay = decay
        self.of: dict[str, torch.Tensor] = {}  # by name, [this rank's O, I]

    def add(self, weight: PrunableWeight) -> None:
        """Its present gradient, before anything is added to it."""
        square = weight.gradient_OI.float().square()
        mean = self.of.setdefault(weight.name, torch.zeros_like(square))
        mean.lerp_(square, 1 - self._decay)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Where the zeros of all prunable weights go: to the entries whose loss costs least, as many as `pattern` says.

    Args:
        weights: by name.
        optimizer: whose second moments weigh the entries.
        pattern: of all weights together.
        objective_aware: entries are weighed by Adam's second moment (arXiv:2510.01650, Eq. 10 and 11), or by that of
            `loss_moments`; false: by nothing.
        loss_moments: of the loss alone, where Adam's hold a penalty too.
        least_density: of a weight under a global budget (`elsa.sparsity.allocation`).
        rise: how the sparsity gets to the pattern's.
        ranks: that hold rows of the weights.
    """

    weights: Mapping[str, PrunableWeight]
    optimizer: Optimizer
    pattern: Pattern
    objective_aware: bool
    loss_moments: LossMoments | None = None
    least_density: float = LEAST_DENSITY
    rise: Rise = field(default_factory=Rise)
    ranks: Ranks = ONE

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Entries of each weight."""
        return {name: weight.numel for name, weight in self.weights.items()}

    @cached_property
    def held(self) -> dict[str, list[PrunableWeight]]:
        """The weights by the name of their parameter."""
        return by_parameter(self.weights)

    def at(self, step: int) -> Pattern:
        """The pattern of all weights together after `step`."""
        return self.rise.at(step, self.pattern)

    def importance(self, name: str) -> torch.Tensor | None:
        """What the squares of a weight's entries are weighed by, [O, I]; None for nothing. `name`: of the weight."""
        if not self.objective_aware:
            return None
        if self.loss_moments is not None:
            return self.loss_moments.of[name]
        weight = self.weights[name]
        moment = weight.as_OI(self.optimizer.second_moment(weight.parameter_name))
        return moment if weight.expert is None else moment.clamp_min(_LEAST)

    def saliency(self, name: str) -> torch.Tensor:
        """What zeroing each entry of the weight `name` costs, fp32 [O, I]."""
        return saliency(self.weights[name].value_OI.float(), self.importance(name))

    def patterns(
        self, pattern: Pattern, its_saliency: Callable[[str], torch.Tensor] | None = None
    ) -> dict[str, Pattern]:
        """The pattern of each weight by name.

        Args:
            pattern: of all weights together, such as `at(step)`.
            its_saliency: what zeroing each entry of a weight costs, where that is not of the weights themselves.
        """
        return patterns_of(pattern, self.sizes, its_saliency or self.saliency, self.ranks, self.least_density)

    def selectors(
        self, patterns: Mapping[str, Pattern], score_of: Callable[[str], torch.Tensor]
    ) -> dict[str, Selector]:
        """What marks the kept entries of each weight once it is given the very scores of `score_of(name)`.

        Args:
            patterns: by name.
            score_of: this rank's scores of a weight.
        """
        return selectors(patterns, self.sizes, score_of, self.ranks, self.optimizer.device)

    def magnitudes(self, name: str) -> torch.Tensor:
        """The squares of a weight."""
        return saliency(self.weights[name].value_OI)

    def first_selectors(self) -> dict[str, Selector]:
        """Of magnitude, as sparse as it is at the start; a budget of all weights together is not placed yet."""
        start = self.at(0)
        return self.selectors(patterns_by_level(start, self.sizes), self.magnitudes)


class SparseConstraint(Constraint, ABC):
    """The bookkeeping of a constraint that makes weights sparse.

    `mask_changes`: by step and weight, the share of entries that changed. `before_projection`: how far the weights were
    from their supports at the last update so far, at the end before the last projection.
    """

    before_projection: Distances

    def __init__(self, projection: Projection, interval: int):
        self._projection, self._weights = projection, projection.weights
        self.interval: int | None = interval
        self.mask_changes: dict[int, dict[str, float]] = {}

    def _note_flips(self, step: int, flips: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Keep how many mask entries of each weight changed; the metric of all together."""
        sizes = self._projection.sizes
        counts: list[int] = self._projection.ranks.sum_(torch.stack(list(flips.values()))).tolist()
        self.mask_changes[step] = {name: count / sizes[name] for name, count in zip(flips, counts, strict=True)}
        return {"mask_change": sum(counts) / sum(sizes.values())}

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Project the weights onto the pattern, and say what that removed."""
        self._project_weights()
        _log.info(self.verdict())
        held = sum(weight.value_OI.numel() for weight in self._weights.values())  # by this rank
        return {
            "before_projection": self.before_projection.metrics(), "verdict": self.verdict(),
            "mask_changes": self.mask_changes,
            "bytes": {"state_per_prunable_weight": self.nbytes / held},
        }  # fmt: skip

    @abstractmethod
    def _project_weights(self) -> None:
        """x ← projection of x onto the pattern; `before_projection` then holds the distances that x had."""

    @abstractmethod
    def verdict(self) -> str:
        """What the last projection did to the weights, in words."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the state that are really held."""

    def state(self) -> dict[str, Any]:
        return {"mask_changes": self.mask_changes, "before_projection": tuple(self.before_projection)}

    def restore(self, state: dict[str, Any]) -> None:
        self.mask_changes, self.before_projection = state["mask_changes"], Distances(*state["before_projection"])

    def _spread(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: self._weights[name].spread(mask) for name, mask in masks.items()}

    def _own_rows(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: self._weights[name].own_rows(mask) for name, mask in masks.items()}
