"""Wanda: weights and activations (arXiv:2306.11695)."""

from dataclasses import dataclass

import torch

from elsa.layerwise.statistics import EnergyStatistics
from elsa.method.layerwise import LayerwiseMethod
from elsa.sparsity.pattern import Pattern


@dataclass(frozen=True, kw_only=True)
class Wanda(EnergyStatistics, LayerwiseMethod):
    """Keep the largest |W_oi| · ‖x_i‖₂ of every output row (Eq. 1; N:M: of every group).

    arXiv:2306.11695. No difference to the reference but rounding: a row loses round(ratio · I) weights, there int(ratio
    · I).
    """

    additive = True

    def prune(self, weight_OI: torch.Tensor, prepared: torch.Tensor, pattern: Pattern) -> torch.Tensor:
        score = weight_OI.abs() * prepared.sqrt()
        return weight_OI * pattern.mask_rows(score.square() if pattern.adds else score)
