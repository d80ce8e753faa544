"""The wanted pattern of zeros, defined once for all methods.

Shapes: O outputs, I inputs of a linear layer (`weight_OI`). N:M is written `keep:group` and runs along the inputs:
2:4 keeps 2 of every 4 consecutive weights of a row.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from elsa.distributed.ranks import Ranks
from elsa.errors import UserError, require
from elsa.sparsity.levels import check_levels
from elsa.sparsity.selection import Key, borders, keep_largest, keep_largest_of_each_row

_PLACED = ("global", "owl", "levels")  # allocations that give weights different shares


class Selector(Protocol):
    """What marks the entries of a weight that are kept: its pattern, or the border found for it."""

    def mask(self, score_OI: torch.Tensor, /) -> torch.Tensor:
        """Bool [O, I]: the entries with the highest scores."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """`pattern`: "unstructured" or "keep:group". `ratio`: wanted fraction of zeros; null with N:M, which implies it.

    `allocation`: "uniform" gives every weight that fraction, "global" is one budget for all weights together
    (`elsa.sparsity.allocation`), "owl" goes by outliers of blocks (`elsa.layerwise.outliers`), "levels" by `levels`;
    null is the method's own, N:M is uniform. `levels`: fractions of zeros by globs over the weights' names, moved so
    that all together have `ratio` (`elsa.sparsity.levels`).
    """

    pattern: str
    ratio: float | None
    allocation: str | None = "uniform"
    levels: dict[str, float] | None = None

    def __post_init__(self) -> None:
        known = self.allocation in (None, "uniform", *_PLACED)
        require(
            known, "allocation", self.allocation, f"known: uniform, {', '.join(_PLACED)}, or null for the method's own"
        )
        if self.levels is not None:
            check_levels(self.levels)
            free = self.allocation in (None, "levels")
            require(free, "allocation", self.allocation, "levels say where the zeros go; leave it null")
        given = self.allocation != "levels" or self.levels is not None
        require(given, "allocation", self.allocation, "it needs sparsity.levels, such as {*.mlp.*:0.9}")
        if self.pattern == "unstructured":
            if self.ratio is None:
                raise UserError("ratio=null: an unstructured pattern needs the fraction of zeros")
            require(0 <= self.ratio < 1, "ratio", self.ratio, "the fraction of zeros lies in [0, 1), for example 0.9")
            return
        match = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        wanted = "known: unstructured, or keep:group such as 2:4 (2 of every 4 weights are kept)"
        if match is None:
            raise UserError(f"pattern={self.pattern}: {wanted}")
        keep, group = map(int, match.groups())
        require(0 < keep < group, "pattern", self.pattern, "keep:group keeps at least 1 and fewer than the group")
        require(self.levels is None, "levels", self.levels, f"{self.pattern} is uniform in every group; leave them out")
        uniform = self.allocation not in _PLACED
        require(uniform, "allocation", self.allocation, f"{self.pattern} is uniform in every group; set uniform")
        implied = 1 - keep / group
        agrees = self.ratio is None or abs(self.ratio - implied) < 1e-9
        require(agrees, "ratio", self.ratio, f"pattern {self.pattern} means {implied:g}; set {implied:g} or null")

    @property
    def _keep_and_group(self) -> tuple[int, int] | None:
        if self.pattern == "unstructured":
            return None
        keep, group = self.pattern.split(":")
        return int(keep), int(group)

    @property
    def sparsity(self) -> float:
        """The wanted fraction of zeros."""
        if self._keep_and_group is None:
            assert self.ratio is not None, "an unstructured pattern has one"
            return self.ratio
        keep, group = self._keep_and_group
        return 1 - keep / group

    @property
    def group(self) -> int | None:
        """Length of an N:M group; None if unstructured."""
        return self._keep_and_group and self._keep_and_group[1]

    @property
    def name(self) -> str:
        """Short for tables: "90%", "90% global" or "2:4"."""
        if self.group is not None:
            return self.pattern
        return f"{self.sparsity * 100:g}%" + (f" {self.allocation}" if self.allocation in _PLACED else "")

    @staticmethod
    def allocation_of(name: str) -> str:
        """What a pattern's `name` says of its allocation."""
        last = name.rpartition(" ")[2]
        return last if last in _PLACED else "uniform"

    def ramped(self, progress: float) -> "Pattern":
        """The pattern of a gradual pruning at `progress` in [0, 1]: its sparsity rises by a cubic law, fast at first.

        Zhu and Gupta 2017 (arXiv:1710.01878), Eq. 1, from no zeros. N:M is not ramped: its groups know no part of it.
        """
        if self.group is not None or progress >= 1:
            return self
        return replace(self, ratio=self.sparsity * (1 - (1 - progress) ** 3))

    def allocated(self, own: str) -> "Pattern":
        """With `own` for the allocation where it says none, and has no levels."""
        if self.allocation is not None:
            return self
        if self.levels is not None:
            return replace(self, allocation="levels")
        return replace(self, allocation="uniform" if self.group else own)

    def spent(self) -> "Pattern":
        """What is left of it for a method that follows one that has placed the zeros: its groups."""
        return replace(self, allocation="uniform", levels=None)

    @classmethod
    def of_zeros(cls, zeros: int, numel: int) -> "Pattern":
        """The unstructured pattern that makes `zeros` of `numel` weights zero."""
        return cls(pattern="unstructured", ratio=zeros / numel)

    def zeros(self, numel: int) -> int:
        """How many of `numel` weights become zero."""
        return round(self.sparsity * numel)

    def mask(self, score_OI: torch.Tensor) -> torch.Tensor:
        """Mark what is kept: the highest scores of the whole tensor, or of every N:M group. Counts are exact.

        Returns bool [O, I]. Raises `ValueError` if I is no multiple of the group, or on a NaN score.
        """
        if self._keep_and_group is None:
            return keep_largest(score_OI, score_OI.numel() - self.zeros(score_OI.numel()))
        return self._mask_groups(score_OI, *self._keep_and_group)

    def mask_rows(self, score_OI: torch.Tensor) -> torch.Tensor:
        """Like `mask`, but an unstructured pattern compares within every row (Wanda's comparison group)."""
        if self._keep_and_group is None:
            inputs = score_OI.shape[1]
            return keep_largest_of_each_row(score_OI, inputs - self.zeros(inputs))
        return self._mask_groups(score_OI, *self._keep_and_group)

    def _mask_groups(self, score_OI: torch.Tensor, keep: int, group: int) -> torch.Tensor:
        if score_OI.shape[1] % group:
            raise ValueError(f"{score_OI.shape[1]} inputs are no multiple of the group of pattern {self.pattern}")
        return keep_largest_of_each_row(score_OI.reshape(-1, group), keep).view(score_OI.shape)


def selectors(
    patterns: Mapping[Key, Pattern],
    sizes: Mapping[Key, int],
    score_of: Callable[[Key], torch.Tensor],
    ranks: Ranks,
    device: torch.device,
) -> dict[Key, Selector]:
    """What marks the kept entries of each weight when it is given `score_of(key)`, [this rank's rows, I].

    `sizes`: entries of the whole weights. N:M marks by itself, and so does everything on one CPU, where that is faster.
    """
    found: dict[Key, Selector] = dict(patterns)
    if ranks.size > 1 or device.type != "cpu":
        keep = {key: sizes[key] - each.zeros(sizes[key]) for key, each in patterns.items() if each.group is None}
        found |= borders(score_of, keep, ranks)
    return found


@dataclass(frozen=True)
class Rise:
    """A gradual pruning: over the first `steps` steps the sparsity rises to the pattern's (0: it is there at once).

    `begins`: how far along the law of `Pattern.ramped` the rise begins, 0 to 1.
    """

    steps: int = 0
    begins: float = 0.0

    def at(self, step: int, pattern: Pattern) -> Pattern:
        """What `pattern` is after `step`."""
        return pattern.ramped(self.begins + (1 - self.begins) * step / self.steps) if self.steps else pattern
