"""What is kept of every group of a matrix [O, I]: N:M, N:M of pairs, and N:M along both axes. Counts are exact.

Each kind marks the highest scores of its groups, and counts the most that a group of a matrix keeps.
"""

import itertools
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from elsa.sparsity.selection import keep_largest_of_each_row, refuse_nan

LARGEST_BLOCK = 4  # of a transposable pattern: there are 90 masks for 2:4, and 10¹¹ for 4:8
_AT_ONCE = 1 << 18  # blocks whose masks are all scored together


class Kind(NamedTuple):
    """`mask(score_OI, keep, group)`: bool [O, I]. `most(weight_OI, group)`: the most that a group keeps, of `keep`.

    `adds`: whether scores of several entries are added up, so that they must be what zeroing each would cost.
    """

    mask: Callable[[torch.Tensor, int, int], torch.Tensor]
    most: Callable[[torch.Tensor, int], int]
    adds: bool


def _mask_entries(score_OI: torch.Tensor, keep: int, group: int) -> torch.Tensor:
    return keep_largest_of_each_row(score_OI.reshape(-1, group), keep).view(score_OI.shape)


def _most_entries(weight_OI: torch.Tensor, group: int) -> int:
    return int((weight_OI.reshape(-1, group) != 0).sum(1).max())


def _mask_pairs(score_OI: torch.Tensor, keep: int, group: int) -> torch.Tensor:
    pairs = score_OI.reshape(-1, group // 2, 2).float().sum(2)
    return keep_largest_of_each_row(pairs, keep // 2).repeat_interleave(2, dim=1).view(score_OI.shape)


def _most_pairs(weight_OI: torch.Tensor, group: int) -> int:
    return 2 * int((weight_OI.reshape(-1, group // 2, 2) != 0).any(2).sum(1).max())


def _mask_blocks(score_OI: torch.Tensor, keep: int, group: int) -> torch.Tensor:
    """Of all masks of a block the one whose scores have the largest sum."""
    refuse_nan(score_OI)
    masks = torch.tensor(_block_masks(keep, group), dtype=torch.float32, device=score_OI.device)
    outputs, inputs = score_OI.shape
    blocks = score_OI.float().reshape(outputs // group, group, inputs // group, group).transpose(1, 2)
    scores = blocks.reshape(-1, group * group)
    best = torch.cat([(part @ masks.t()).argmax(1) for part in scores.split(_AT_ONCE)])
    return masks.bool()[best].view(blocks.shape).transpose(1, 2).reshape(score_OI.shape)


@cache
def _block_masks(keep: int, group: int) -> tuple[tuple[int, ...], ...]:
    """All masks of a block, flat, with `keep` in every row and column."""
    rows = [tuple(int(place in kept) for place in range(group)) for kept in itertools.combinations(range(group), keep)]
    every = itertools.product(rows, repeat=group)
    return tuple(sum(mask, ()) for mask in every if all(sum(column) == keep for column in zip(*mask, strict=True)))


def _most_in_blocks(weight_OI: torch.Tensor, group: int) -> int:
    return max(_most_entries(weight_OI, group), _most_entries(weight_OI.t(), group))


KINDS = {
    "": Kind(_mask_entries, _most_entries, adds=False),
    "paired": Kind(_mask_pairs, _most_pairs, adds=True),
    "transposable": Kind(_mask_blocks, _most_in_blocks, adds=True),
}
