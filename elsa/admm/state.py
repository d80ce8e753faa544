"""The sparse copy z and the scaled dual u of ADMM, held as one tensor and a mask.

After a z/u update with step size 1 the two never overlap: on the support u = 0 and z = x + u, off it z = 0 and
u = x + u. So `split` = z − u holds both, and `kept` tells which:

    z = split where kept, 0 elsewhere          u = 0 where kept, −split elsewhere

Everything here is element by element on whatever tensor a weight is, but for the mask itself (`Pattern.mask`).
Source: arXiv:2510.01650 for the updates; the merged form is this project's.
"""

from dataclasses import dataclass

import torch

from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import saliency


@dataclass
class SplitState:
    """`split` = z − u in the weight's shape and dtype; `kept`: bool, the support of z. Weights are [O, I]."""

    split: torch.Tensor
    kept: torch.Tensor

    @classmethod
    def start(cls, weight_OI: torch.Tensor, pattern: Pattern) -> "SplitState":
        """u = 0 and z the magnitude projection of the dense weight at the full target sparsity."""
        kept = pattern.mask(saliency(weight_OI))
        return cls(weight_OI * kept, kept)

    def add_proximal_gradient(self, gradient: torch.Tensor, weight: torch.Tensor, penalty: float) -> None:
        """gradient += λ (x − z + u), in place."""
        gradient.add_(weight - self.split, alpha=penalty)

    def update(self, weight_OI: torch.Tensor, pattern: Pattern, importance_OI: torch.Tensor | None = None) -> int:
        """z ← projection of x + u, then u ← u + x − z. Returns how many mask entries changed."""
        target = torch.where(self.kept, weight_OI, weight_OI - self.split)
        kept = pattern.mask(saliency(target, importance_OI))
        changed = int((kept != self.kept).sum())
        self.split = torch.where(kept, target, -target)
        self.kept = kept
        return changed

    def rescale_dual(self, factor: float) -> None:
        """u ← factor · u, due at the moment λ changes (factor = λ_old / λ_new)."""
        self.split = torch.where(self.kept, self.split, self.split * factor)

    def residual_squared(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """‖x − z‖² and ‖z‖², as scalars on the weight's device."""
        sparse = self.split * self.kept
        return (weight - sparse).square().sum(), sparse.square().sum()
