"""Magnitude pruning."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from elsa.errors import require
from elsa.layerwise.driver import LayerPruner
from elsa.method.base import Method, Task
from elsa.method.layerwise import prune_model
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.selection import reference_threshold


@dataclass(frozen=True, kw_only=True)
class Magnitude(LayerPruner, Method):
    """Keep the largest |W| of every layer.

    Reference: the magnitude baseline of the Wanda repository. Difference: it prunes every weight that ties with its
    threshold, and in N:M groups leaves ties to `topk`; here counts are exact and the first of equal weights are kept.

    Args:
        match_reference: do as the reference does.
    """

    match_reference: bool = False

    needs_inputs = False

    @property
    def uses_data(self) -> bool:
        return False

    def check_pattern(self, pattern: Pattern) -> None:
        super().check_pattern(pattern)
        fits = not (self.match_reference and pattern.kind)
        require(fits, "pattern", pattern.pattern, "the reference of method.match_reference=true knows no such pattern")

    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        prune_model(model, self, task.pattern, None)
        return {}

    def prune(self, weight_OI: torch.Tensor, prepared: None, pattern: Pattern) -> torch.Tensor:
        score = weight_OI.square() if pattern.adds else weight_OI.abs()
        return weight_OI * (_reference_mask(score, pattern) if self.match_reference else pattern.mask(score))


def _reference_mask(score_OI: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    if pattern.group is None:
        return score_OI > reference_threshold(score_OI, pattern.sparsity)
    groups = score_OI.reshape(-1, pattern.group)
    pruned = groups.topk(round(pattern.group * pattern.sparsity), dim=1, largest=False).indices
    return torch.ones_like(groups, dtype=torch.bool).scatter_(1, pruned, False).view_as(score_OI)
