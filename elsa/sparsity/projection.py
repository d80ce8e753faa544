"""Projection of a weight onto a pattern."""

import torch

from elsa.sparsity.pattern import Selector


def saliency(target: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """What zeroing an entry costs: target², or importance · target². The best projection keeps the highest.

    With Adam's second moment as `importance` this is the objective-aware projection (arXiv:2510.01650, Sec. 3.2).
    """
    return target.square() if importance is None else target.square().mul_(importance)


def project(target_OI: torch.Tensor, selector: Selector, importance_OI: torch.Tensor | None = None) -> torch.Tensor:
    """argmin over z in the pattern of Σ importance_i (z_i − target_i)²: survivors keep their value."""
    return target_OI * selector.mask(saliency(target_OI, importance_OI))
