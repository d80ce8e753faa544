"""SparseGPT: one-shot pruning with optimal updates of the weights that stay (arXiv:2301.00774)."""

from dataclasses import dataclass

import torch

from elsa.errors import require
from elsa.layerwise.statistics import add_to_gram, damped, empty_gram, upper_inverse_factor
from elsa.method import LayerwiseMethod
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.selection import keep_largest, reference_threshold


@dataclass(frozen=True, kw_only=True)
class SparseGPT(LayerwiseMethod):
    """Go through the columns; mask by w² / U_ii², and spread each error over the columns to the right (Alg. 1).

    `block_size`: columns that choose their mask together. `damping`: share of the mean diagonal of the Gram matrix
    that is added to it. Difference to the reference: exactly the wanted number of weights is pruned, where it prunes
    one more in every block of columns and all that tie; `match_reference` does as it does.
    """

    damping: float
    block_size: int
    match_reference: bool

    def __post_init__(self):
        super().__post_init__()
        require(self.damping > 0, "damping", self.damping, "positive, for example 0.01")
        require(self.block_size >= 1, "block_size", self.block_size, "at least 1, for example 128")

    def init_statistics(self, weight_OI: torch.Tensor) -> torch.Tensor:
        return empty_gram(weight_OI)

    def update_statistics(self, statistics: torch.Tensor, inputs_TI: torch.Tensor) -> None:
        add_to_gram(statistics, inputs_TI)

    def prepare(self, statistics: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse factor U, and which inputs were never active."""
        return upper_inverse_factor(damped(statistics, self.damping)), statistics.diagonal() == 0

    def prune(
        self, weight_OI: torch.Tensor, prepared: tuple[torch.Tensor, torch.Tensor], pattern: Pattern
    ) -> torch.Tensor:
        factor, dead = prepared
        weight = weight_OI.clone()
        weight[:, dead] = 0
        inputs = weight.shape[1]
        for start in range(0, inputs, self.block_size):
            end = min(start + self.block_size, inputs)
            zeros = pattern.zeros(weight.shape[0] * end) - pattern.zeros(weight.shape[0] * start)
            errors = self._prune_columns(weight[:, start:end], factor[start:end, start:end], start, zeros, pattern)
            weight[:, end:] -= errors @ factor[start:end, end:]
        return weight

    def _prune_columns(
        self, columns: torch.Tensor, factor: torch.Tensor, start: int, zeros: int, pattern: Pattern
    ) -> torch.Tensor:
        """Prune one block of columns in place; return each column's error / U_ii, to be spread to the right."""
        diagonal = factor.diagonal()
        kept = torch.ones_like(columns, dtype=torch.bool)
        if pattern.group is None:
            kept = self._choose(columns.square() / diagonal.square(), zeros, pattern)
        errors = torch.zeros_like(columns)
        for i in range(columns.shape[1]):
            if pattern.group is not None and (start + i) % pattern.group == 0:
                group = slice(i, i + pattern.group)
                kept[:, group] = pattern.mask(columns[:, group].square() / diagonal[group].square())
            column = columns[:, i]
            errors[:, i] = torch.where(kept[:, i], 0, column) / diagonal[i]
            columns[:, i + 1 :] -= torch.outer(errors[:, i], factor[i, i + 1 :])
            columns[:, i] = torch.where(kept[:, i], column, 0)
        return errors

    def _choose(self, score: torch.Tensor, zeros: int, pattern: Pattern) -> torch.Tensor:
        if not self.match_reference:
            return keep_largest(score, score.numel() - zeros)
        return score > reference_threshold(score, pattern.sparsity)
