"""The wanted pattern of zeros, defined once for all methods.

Shapes: O outputs, I inputs of a linear layer (`weight_OI`). N:M is written `keep:group` and runs along the inputs:
2:4 keeps 2 of every 4 consecutive weights of a row, paired_4:8 two of every four adjacent pairs, and transposable_2:4
two in every row and column of each block of 4 x 4 (arXiv:2102.08124).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from elsa.distributed.ranks import Ranks
from elsa.errors import UserError, require
from elsa.sparsity.groups import KINDS, LARGEST_BLOCK
from elsa.sparsity.levels import check_levels
from elsa.sparsity.selection import Key, borders, keep_largest, keep_largest_of_each_row

_N_OF_M = re.compile(r"(?:(?P<kind>paired|transposable)_)?(?P<keep>\d+):(?P<group>\d+)")
_PLACED = ("global", "owl", "levels")  # allocations that give weights different shares


class Selector(Protocol):
    """What marks the entries of a weight that are kept: its pattern, or the border found for it."""

    def mask(self, score_OI: torch.Tensor, /) -> torch.Tensor:
        """Bool [O, I]: the entries with the highest scores.

        Args:
            score_OI: what zeroing each entry would cost, or anything in that order.
        """


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How many zeros, and in which pattern.

    Args:
        pattern: "unstructured", "keep:group" (2:4 keeps 2 of every 4 consecutive weights of a row), "paired_keep:group"
            or "transposable_keep:group" (arXiv:2102.08124).
        ratio: the wanted fraction of zeros, in [0, 1); null with N:M, which implies it.
        allocation: who gets how many of them. "uniform" gives every weight that fraction, "global" is one budget for
            all weights together (`elsa.sparsity.allocation`), "owl" goes by outliers of blocks (arXiv:2310.05175),
            "levels" by `levels`; null is the method's own. N:M is uniform.
        levels: fractions of zeros by globs over the weights' names, moved so that all together have `ratio`
            (`elsa.sparsity.levels`).

    Raises:
        UserError: for what is no pattern, or does not fit together.

    Examples:
        >>> score = torch.tensor([[3.0, 1.0, 4.0, 1.0], [5.0, 9.0, 2.0, 6.0]])
        >>> Pattern(pattern="2:4", ratio=None).mask(score).int().tolist()
        [[1, 0, 1, 0], [0, 1, 0, 1]]
        >>> Pattern(pattern="unstructured", ratio=0.75).mask(score).int().tolist()
        [[0, 0, 0, 0], [0, 1, 0, 1]]
    """

    pattern: str
    ratio: float | None
    allocation: str | None = "uniform"
    levels: dict[str, float] | None = None

    def __post_init__(self) -> None:
        choices = f"known: uniform, {', '.join(_PLACED)}, or null for the method's own"
        require(self.allocation in (None, "uniform", *_PLACED), "allocation", self.allocation, choices)
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
        if self._groups is None:
            known = "unstructured, keep:group such as 2:4 (2 of every 4 weights are kept), paired_4:8, transposable_2:4"
            raise UserError(f"pattern={self.pattern}: known: {known}")
        kind, keep, group = self._groups
        require(0 < keep < group, "pattern", self.pattern, "keep:group keeps at least 1 and fewer than the group")
        even = kind != "paired" or (keep % 2 == 0 and group % 2 == 0)
        require(even, "pattern", self.pattern, "pairs are kept whole: both numbers must be even, as in paired_4:8")
        few = kind != "transposable" or group <= LARGEST_BLOCK
        tried = f"groups up to {LARGEST_BLOCK}, whose masks can all be tried, as in transposable_2:4"
        require(few, "pattern", self.pattern, tried)
        require(self.levels is None, "levels", self.levels, f"{self.pattern} is uniform in every group; leave them out")
        uniform = self.allocation not in _PLACED
        require(uniform, "allocation", self.allocation, f"{self.pattern} is uniform in every group; set uniform")
        implied = 1 - keep / group
        agrees = self.ratio is None or abs(self.ratio - implied) < 1e-9
        require(agrees, "ratio", self.ratio, f"pattern {self.pattern} means {implied:g}; set {implied:g} or null")

    @property
    def _groups(self) -> tuple[str, int, int] | None:
        """Kind, entries to keep, and entries of a group; None if unstructured."""
        match = _N_OF_M.fullmatch(self.pattern)
        return match and (match["kind"] or "", int(match["keep"]), int(match["group"]))

    @property
    def kind(self) -> str:
        """Of N:M: "paired", "transposable", or "" for the plain one."""
        return self._groups[0] if self._groups else ""

    @property
    def adds(self) -> bool:
        """Whether it adds up scores of entries, which must then be what zeroing each costs, not just in that order."""
        return KINDS[self.kind].adds

    @property
    def rows(self) -> int:
        """Of how many rows together it marks; 1 where each has its own."""
        return self.group or 1 if self.kind == "transposable" else 1

    @property
    def sparsity(self) -> float:
        """The wanted fraction of zeros."""
        if self._groups is None:
            assert self.ratio is not None, "an unstructured pattern has one"
            return self.ratio
        _, keep, group = self._groups
        return 1 - keep / group

    @property
    def group(self) -> int | None:
        """Length of an N:M group; None if unstructured."""
        return self._groups and self._groups[2]

    @property
    def name(self) -> str:
        """Short for tables: "90%", "90% global" or "2:4"."""
        if self.group is not None:
            return self.pattern
        return f"{self.sparsity * 100:g}%" + (f" {self.allocation}" if self.allocation in _PLACED else "")

    @staticmethod
    def allocation_of(name: str) -> str:
        """What the `name` of a pattern says of its allocation."""
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
        """How many of `numel` weights become zero: round(sparsity · numel)."""
        return round(self.sparsity * numel)

    def mask(self, score_OI: torch.Tensor) -> torch.Tensor:
        """Mark what is kept: the highest scores of the whole tensor, or of every N:M group. Counts are exact.

        Args:
            score_OI: what zeroing each entry would cost; only its order counts, unless the pattern `adds`.

        Returns:
            Bool [O, I]. Of equal scores those that come first in memory are kept.

        Raises:
            ValueError: if I is no multiple of the group, or on a NaN score.
        """
        if self._groups is None:
            return keep_largest(score_OI, score_OI.numel() - self.zeros(score_OI.numel()))
        return self._mask_groups(score_OI, *self._groups)

    def mask_rows(self, score_OI: torch.Tensor) -> torch.Tensor:
        """Like `mask` of `score_OI`, but an unstructured pattern compares within every row, as Wanda does."""
        if self._groups is None:
            inputs = score_OI.shape[1]
            return keep_largest_of_each_row(score_OI, inputs - self.zeros(inputs))
        return self._mask_groups(score_OI, *self._groups)

    def _mask_groups(self, score_OI: torch.Tensor, kind: str, keep: int, group: int) -> torch.Tensor:
        if misfit := self.misfit(*score_OI.shape):
            raise ValueError(f"pattern={self.pattern}: a weight has {misfit}")
        return KINDS[kind].mask(score_OI, keep, group)

    def misfit(self, outputs: int, inputs: int) -> str:
        """Why a matrix of so many `outputs` and `inputs` cannot have the pattern, in words; "" if it can."""
        if self.group and inputs % self.group:
            return f"{inputs} inputs, no multiple of {self.group}"
        if outputs % self.rows:
            return f"{outputs} outputs, no multiple of {self.rows}"
        return ""

    def kept(self, weight_OI: torch.Tensor) -> tuple[int, int]:
        """How many entries of a group of N:M may be kept, and the most that a group of `weight_OI` keeps."""
        assert self._groups is not None, "it has groups"
        kind, keep, group = self._groups
        return keep, KINDS[kind].most(weight_OI, group)


def selectors(
    patterns: Mapping[Key, Pattern],
    sizes: Mapping[Key, int],
    score_of: Callable[[Key], torch.Tensor],
    ranks: Ranks,
    device: torch.device,
) -> dict[Key, Selector]:
    """What marks the kept entries of each weight once it is given `score_of(key)`.

    N:M marks by itself, and so does everything on one CPU, where that is faster; else borders are found together.

    Args:
        patterns: of each weight.
        sizes: entries of the whole weights.
        score_of: this rank's scores of a weight, [this rank's rows, I].
        ranks: that hold rows of the weights.
        device: where the scores are.
    """
    found: dict[Key, Selector] = dict(patterns)
    if ranks.size > 1 or device.type != "cpu":
        keep = {key: sizes[key] - each.zeros(sizes[key]) for key, each in patterns.items() if each.group is None}
        found |= borders(score_of, keep, ranks)
    return found


@dataclass(frozen=True)
class Rise:
    """A gradual pruning: the sparsity rises to the pattern's and stays there.

    Args:
        steps: over how many of the first steps it rises; 0: it is there at once.
        begins: how far along the law of `Pattern.ramped` the rise begins, 0 to 1.
    """

    steps: int = 0
    begins: float = 0.0

    def at(self, step: int, pattern: Pattern) -> Pattern:
        """What `pattern` is after `step`."""
        return pattern.ramped(self.begins + (1 - self.begins) * step / self.steps) if self.steps else pattern
