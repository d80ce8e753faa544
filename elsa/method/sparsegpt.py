"""SparseGPT: one-shot pruning with optimal updates of the weights that stay (arXiv:2301.00774)."""

import math
from dataclasses import dataclass

import torch

from elsa.errors import require
from elsa.layerwise.statistics import damped, upper_inverse_factor
from elsa.method.layerwise import GramMethod
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.selection import keep_largest, reference_threshold

_AT_ONCE = 16  # columns that get each other's errors one by one


@dataclass(frozen=True, kw_only=True)
class SparseGPT(GramMethod):
    """Go through the columns; mask by w² / U_ii², and spread each error over the columns to the right (Alg. 1).

    arXiv:2301.00774. Difference to the reference: exactly the wanted number of weights is pruned, where it prunes one
    more in every block of columns and all that tie.

    Args:
        damping: share of the mean diagonal of the Gram matrix that is added to it.
        block_size: columns that choose their mask together.
        match_reference: prune as many as the reference does.
    """

    damping: float = 0.01
    block_size: int = 128
    match_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.damping > 0, "damping", self.damping, "positive, for example 0.01")
        require(self.block_size >= 1, "block_size", self.block_size, "at least 1, for example 128")

    def prepare(self, statistics: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse factor U [I, I] of the Gram matrix `statistics`, and which inputs were never active."""
        return upper_inverse_factor(damped(statistics, self.damping)), statistics.diagonal() == 0

    def prune(
        self, weight_OI: torch.Tensor, prepared: tuple[torch.Tensor, torch.Tensor], pattern: Pattern
    ) -> torch.Tensor:
        factor, dead = prepared
        weight = weight_OI.t().contiguous()  # [I, O]: a column of the layer is contiguous
        weight[dead] = 0
        inputs, outputs = weight.shape
        group = pattern.group or 1
        block = group * math.ceil(self.block_size / group)
        for start in range(0, inputs, block):
            end = min(start + block, inputs)
            # differences of a running count, so that the blocks' zeros add up exactly
            zeros = pattern.zeros(outputs * end) - pattern.zeros(outputs * start)
            errors = self._prune_columns(weight[start:end], factor[start:end, start:end], zeros, pattern)
            weight[end:] -= factor[start:end, end:].t() @ errors
        return weight.t().contiguous()

    def _prune_columns(
        self, columns_IO: torch.Tensor, factor: torch.Tensor, zeros: int, pattern: Pattern
    ) -> torch.Tensor:
        """Prune a block of columns in place; return each column's error / U_ii, to be spread to the right.

        Errors go to a few columns at once and to the rest of the block by one product, which is the same sum.
        """
        diagonal, width, group = factor.diagonal(), len(columns_IO), pattern.group
        kept = torch.ones_like(columns_IO, dtype=torch.bool)
        if group is None:
            kept = self._choose((columns_IO / diagonal[:, None]).square().t(), zeros, pattern).t()
        errors = torch.zeros_like(columns_IO)
        few = (group or 1) * math.ceil(_AT_ONCE / (group or 1))
        for start in range(0, width, few):
            end = min(start + few, width)
            for i in range(start, end):
                if group is not None and i % group == 0:
                    # only now: the columns before have just moved these
                    score = (columns_IO[i : i + group] / diagonal[i : i + group, None]).square()
                    kept[i : i + group] = pattern.mask(score.t()).t()
                # what is kept makes no error
                errors[i] = (columns_IO[i] / diagonal[i]).masked_fill_(kept[i], 0)
                columns_IO[i + 1 : end].addr_(factor[i, i + 1 : end], errors[i], alpha=-1)
            columns_IO[end:] -= factor[start:end, end:].t() @ errors[start:end]
        columns_IO.masked_fill_(~kept, 0)
        return errors

    def _choose(self, score: torch.Tensor, zeros: int, pattern: Pattern) -> torch.Tensor:
        if not self.match_reference:
            return keep_largest(score, score.numel() - zeros)
        return score > reference_threshold(score, pattern.sparsity)
