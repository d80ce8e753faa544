"""Magnitude pruning."""

from dataclasses import dataclass

import torch
from torch import nn

from elsa.layerwise.driver import LayerPruner
from elsa.method import Method, Task, prune_model
from elsa.sparsity.pattern import Pattern


@dataclass(frozen=True, kw_only=True)
class Magnitude(LayerPruner, Method):
    """Keep the largest |W| of every layer.

    Reference: the magnitude baseline of the Wanda repository. Difference: it prunes every weight that ties with its
    threshold; here the count is exact and the first of equal weights are kept.
    """

    reads = ("sparsity",)
    needs_inputs = False

    def apply(self, model: nn.Module, task: Task) -> dict:
        prune_model(model, self, task.pattern, None)
        return {}

    def prune(self, weight_OI: torch.Tensor, prepared: None, pattern: Pattern) -> torch.Tensor:
        return weight_OI * pattern.mask(weight_OI.abs())
