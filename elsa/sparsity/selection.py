"""Exactly k, ties included: the selections that every pattern is made of.

`keep_largest` looks for the k-th value of one tensor; `borders` for those of many, on a GPU or spread over ranks.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from elsa.distributed.ranks import Ranks
from elsa.errors import UserError

Key = TypeVar("Key", bound=Hashable)  # of a weight
_PASSES = ((21, 2048), (10, 2048), (0, 1024))  # where the 11, 11 and 10 bits of an fp32 lie, and how many bins


def keep_largest(score: torch.Tensor, keep: int) -> torch.Tensor:
    """Mark the `keep` largest entries of `score`, any shape; of equal ones those that come first in memory order.

    Returns:
        Bool, of the same shape, with exactly `keep` entries true.

    Raises:
        ValueError: on NaN.

    Examples:
        >>> keep_largest(torch.tensor([1.0, 2.0, 2.0, 0.0]), 2).tolist()
        [False, True, True, False]
        >>> keep_largest(torch.ones(4), 2).tolist()
        [True, True, False, False]
    """
    refuse_nan(score)
    if keep >= score.numel():
        return torch.ones_like(score, dtype=torch.bool)
    if keep <= 0:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = _kth_largest(score, keep)
    mask = (score >= threshold).contiguous()
    excess = int(mask.sum()) - keep
    if excess:
        ties = (score == threshold).flatten().nonzero().squeeze(1)
        mask.view(-1)[ties[-excess:]] = False
    return mask


def keep_largest_of_each_row(score_RG: torch.Tensor, keep: int) -> torch.Tensor:
    """Mark the `keep` largest of every row of `score_RG` (R rows, groups of G); of equal ones the first.

    Returns:
        Bool [R, G].

    Raises:
        ValueError: on NaN.
    """
    refuse_nan(score_RG)
    if score_RG.shape[1] <= 16:  # a rank by comparing all pairs beats a sort of very short rows
        position = torch.arange(score_RG.shape[1], device=score_RG.device)
        rank = torch.zeros_like(score_RG, dtype=torch.uint8)
        for j in range(score_RG.shape[1]):
            other = score_RG[:, j : j + 1]
            rank += (other > score_RG) | ((other == score_RG) & (position > j))
        return rank < keep
    order = score_RG.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(score_RG, dtype=torch.bool).scatter_(1, order[:, :keep], True)


def reference_threshold(score: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The value at or below which the Wanda and SparseGPT codes prune: one weight more than asked, and every tie.

    Args:
        score: any shape.
        sparsity: the wanted fraction of zeros.
    """
    return score.flatten().sort().values[int(score.numel() * sparsity)]


def _kth_largest(score: torch.Tensor, k: int) -> torch.Tensor:
    """On CPU numpy's introselect (5 times faster than `topk` on 45 M entries), elsewhere `topk`."""
    flat = score.detach().flatten()
    if flat.device.type == "cpu":
        place = flat.numel() - k
        values = flat.float().numpy() if flat.dtype in (torch.bfloat16, torch.float16) else flat.numpy()
        return torch.tensor(np.partition(values, place)[place], dtype=flat.dtype)
    return flat.topk(k, sorted=False).values.min()


@dataclass(frozen=True)
class Border:
    """What is kept of a weight: the entries above `key`, and of those equal to it the first `ties` of this rank.

    Both are scalars on the weight's device.
    """

    key: torch.Tensor
    ties: torch.Tensor

    def mask(self, score: torch.Tensor) -> torch.Tensor:
        """Mark what is kept of this rank's scores, those that the border was found for."""
        keys = _ordered(score)
        equal = keys == self.key
        number = equal.flatten().cumsum(0, dtype=torch.int32).view(score.shape)
        return (keys > self.key) | (equal & (number <= self.ties))


def borders(score_of: Callable[[Key], torch.Tensor], keep: Mapping[Key, int], ranks: Ranks) -> dict[Key, Border]:
    """Where the `keep` largest scores of each weight begin; of equal ones those that come first in memory order count.

    `score_of(key)`: this rank's scores of a weight, whose rows follow those of the ranks before; asked for three
    times, so that no more than one lives at once. All weights share three sums and one exchange between ranks, and
    nothing waits for the device but the look for NaN, on which `UserError` is raised.
    """
    if not keep:
        return {}
    # the leading bits of each weight's border, a few more in each pass; `left`: entries to keep at or below it
    prefixes: dict[Key, torch.Tensor] = {}
    left = torch.tensor(list(keep.values()))
    for shift, bins in _PASSES:
        counted = [_histogram(score_of(key), prefixes.get(key), shift, bins) for key in keep]
        mine = torch.stack(counted)
        counts = ranks.sum_(mine.clone())
        if not prefixes:
            left = left.to(counts.device)
            if bool(counts[:, bins].any()):
                raise _not_a_number()
        from_top = counts[:, :bins].flip(1).cumsum(1)
        place = (from_top < left[:, None]).sum(1, keepdim=True).clamp_max(bins - 1)
        above = torch.where(place > 0, from_top.gather(1, (place - 1).clamp_min(0)), 0)
        left, found = left - above.squeeze(1), bins - 1 - place
        for row, key in enumerate(keep):
            # the first bits hold the sign, so that their bins are numbered from −1,024
            before = prefixes[key] * bins if key in prefixes else -(bins // 2)
            prefixes[key] = before + found[row, 0]
    # in memory order the ranks before this one keep their equal scores first
    before_us = ranks.stacked(mine.gather(1, found).squeeze(1))[: ranks.rank].sum(0)
    ties = (left - before_us).clamp_min(0)
    return {key: Border(prefixes[key].int(), ties[row]) for row, key in enumerate(keep)}


def _histogram(score: torch.Tensor, prefix: torch.Tensor | None, shift: int, bins: int) -> torch.Tensor:
    """How many scores lie in each bin of these bits, among those that begin with `prefix`; behind them the others.

    Without a prefix the others are the NaN.
    """
    keys = _ordered(score).flatten()
    if prefix is None:
        bin_of, counts = (keys >> shift) + bins // 2, ~score.isnan().flatten()
    else:
        bin_of, counts = (keys >> shift) & (bins - 1), (keys >> shift + (bins - 1).bit_length()) == prefix
    bin_of = torch.where(counts, bin_of, bins).long()
    if bin_of.device.type == "cpu":
        return torch.bincount(bin_of, minlength=bins + 1)
    # bincount would wait for the device
    return torch.zeros(bins + 1, dtype=torch.long, device=keys.device).scatter_add_(0, bin_of, torch.ones_like(bin_of))


def _ordered(score: torch.Tensor) -> torch.Tensor:
    """int32 that are ordered as the fp32 scores are: their bits, those of negative ones turned round; -0 is 0."""
    bits = (score.float() + 0.0).view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def refuse_nan(score: torch.Tensor) -> None:
    """Raise `UserError` on NaN."""
    if score.numel() and bool(score.max().isnan()):
        raise _not_a_number()


def _not_a_number() -> UserError:
    return UserError(
        "method: a score is NaN, so weights or statistics have overflowed; look at its learning rate and damping"
    )
