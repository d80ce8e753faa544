"""Projection of a weight onto a pattern."""

import torch

from elsa.sparsity.pattern import Selector


def saliency(target: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """What zeroing an entry costs: target², or importance · target². The best projection keeps the highest.

    With Adam's second moment as `importance` this is the objective-aware projection (arXiv:2510.01650, Sec. 3.2).

    Args:
        target: what is projected, any shape.
        importance: by which the squares are weighed, of the same shape or one that broadcasts; None for nothing.
    """
    return target.square() if importance is None else target.square().mul_(importance)


def project(target_OI: torch.Tensor, selector: Selector, importance_OI: torch.Tensor | None = None) -> torch.Tensor:
    """argmin over z in the pattern of Σ importance_i (z_i − target_i)²: survivors keep their value.

    Args:
        target_OI: what is projected.
        selector: a `Pattern`, or the border that was found for this weight.
        importance_OI: by which the squares are weighed (arXiv:2510.01650, Eq. 10 and 11); None for the Euclidean one.

    Examples:
        >>> half = Pattern(pattern="unstructured", ratio=0.5)
        >>> project(torch.tensor([[3.0, 2.0]]), half).tolist()
        [[3.0, 0.0]]
        >>> project(torch.tensor([[3.0, 2.0]]), half, torch.tensor([[1.0, 9.0]])).tolist()
        [[0.0, 2.0]]
    """
    return target_OI * selector.mask(saliency(target_OI, importance_OI))
