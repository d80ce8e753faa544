"""SparseSwaps: exchange kept and pruned weights while the layer's error falls (arXiv:2512.10922).

The error of a row w with the sparse row s is L = d G dᵀ with d = w − s and the Gram matrix G of the inputs. Pruning the
kept s_p and letting the pruned entry q come back with the value v changes it by

    2 s_p g_p + s_p² G_pp − 2 v g_q + v² G_qq − 2 s_p v G_pq        with g = G d,

so that every exchange is priced exactly, and the best v is (g_q + s_p G_pq) / G_qq.

Shapes: R rows, I inputs, P and Q candidates to prune and to bring back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from elsa.errors import require
from elsa.layerwise.capture import BlockReplay
from elsa.layerwise.driver import Patterns, collect
from elsa.layerwise.routed import FEW_TOKENS, REFUSE
from elsa.layerwise.statistics import GramStatistics
from elsa.method.refining import Refiner, Refining
from elsa.model.weights import PrunableWeight
from elsa.record.key import NOT_NAMED
from elsa.sparsity.pattern import Pattern

_PAIRS = 1 << 24  # priced at once
_LEAST_GAIN = 1e-6  # of a row's error: below it is rounding


@dataclass(frozen=True, kw_only=True)
class Swaps(Refining):
    """Make the exchange in each row that lowers the layer's error most, and again, from the weights of `start`.

    arXiv:2512.10922. N:M exchanges within its groups.

    Args:
        refit: what comes back has the value that lowers the error most; false, as in the paper: its dense value.
        candidates: of each row as many kept entries that cost least and pruned ones that gain most by themselves are
            paired; null for all.
        most: exchanges a row; null until none helps.
        few_tokens: as for layer-wise methods (`elsa.method.layerwise`).
    """

    refit: bool = True
    candidates: int | None = 16
    most: int | None = None
    few_tokens: str = field(default=REFUSE, metadata=NOT_NAMED)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.few_tokens in FEW_TOKENS, "few_tokens", self.few_tokens, f"known: {', '.join(FEW_TOKENS)}")
        for name in ("candidates", "most"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1, or null for all")

    def check_pattern(self, pattern: Pattern) -> None:
        super().check_pattern(pattern)
        wanted = f"method={self.label} exchanges single weights, which breaks it; known: unstructured, and keep:group"
        require(not pattern.kind, "pattern", pattern.pattern, wanted)

    def _refiner(self, dense: Mapping[str, torch.Tensor]) -> "SwapRefiner":
        return SwapRefiner(self, dense)


class SwapRefiner(Refiner):
    """Swaps in one model."""

    def __init__(self, method: Swaps, dense: Mapping[str, torch.Tensor]):
        super().__init__(dense)
        self._method, self._swapped, self.few_tokens = method, 0, method.few_tokens
        self._errors = torch.zeros(3, dtype=torch.float64)  # before, after, and the outputs' energy

    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        assert replay is not None, "it needs inputs"
        for names, gram in collect(replay, index, layers, GramStatistics(), self.few_tokens):
            for name in names:
                weight, dense = layers[name], self._dense[name].to(gram.device).float()
                sparse = weight.value_OI.float()
                found, swapped = swap(sparse, dense, gram, patterns[name].group, self._method)
                differences = (dense - sparse, dense - found, dense)
                self._errors += torch.stack([row_errors(each, gram).sum() for each in differences]).cpu()
                self._swapped += swapped
                weight.write(found)

    def facts(self) -> dict[str, Any]:
        before, after, energy = self._errors.tolist()
        return {"exchanges": self._swapped, "layer_error": {"before": before / energy, "after": after / energy}}


def row_errors(difference_RI: torch.Tensor, gram_II: torch.Tensor) -> torch.Tensor:
    """d G dᵀ of each row, fp64 [R]."""
    difference = difference_RI.double()
    return (difference @ gram_II.double() * difference).sum(1)


@torch.no_grad()
def swap(
    sparse_OI: torch.Tensor, dense_OI: torch.Tensor, gram_II: torch.Tensor, group: int | None, method: Swaps
) -> tuple[torch.Tensor, int]:
    """The sparse weight after the exchanges, fp32 [O, I], and how many there were.

    `group`: of N:M. A row whose error did not fall by exact count keeps what it had.
    """
    inputs = sparse_OI.shape[1]
    pairs = inputs * group if group else min(method.candidates or inputs, inputs) ** 2
    result, swapped = sparse_OI.clone(), 0
    for rows in torch.arange(len(sparse_OI)).split(max(1, _PAIRS // pairs)):
        before, dense = sparse_OI[rows], dense_OI[rows]
        search = _Search(before, dense, gram_II, group, method)
        counts = search.run()
        better = row_errors(dense - search.sparse, gram_II) < row_errors(dense - before, gram_II)
        result[rows] = torch.where(better[:, None], search.sparse, before)
        swapped += int(counts[better].sum())
    return result, swapped


class _Search:
    """Exchanges in some rows, all at once. `sparse`: what they are, [R, I]."""

    def __init__(
        self, sparse_RI: torch.Tensor, dense_RI: torch.Tensor, gram_II: torch.Tensor, group: int | None, method: Swaps
    ):
        self.sparse, self._dense, self._gram, self._method = sparse_RI.clone(), dense_RI, gram_II, method
        self._group, self._diagonal = group, gram_II.diagonal()
        self._slope = (dense_RI - sparse_RI) @ gram_II  # g
        self._errors = ((dense_RI - sparse_RI) * self._slope).sum(1)

    def run(self) -> torch.Tensor:
        """Until no row finds an exchange; how many each has made."""
        counts = torch.zeros(len(self.sparse), dtype=torch.long, device=self.sparse.device)
        active = torch.arange(len(self.sparse), device=self.sparse.device)
        most = self._method.most or self.sparse.numel()
        for _ in range(most):
            change, prune, revive = self._best(active)
            helps = change < -_LEAST_GAIN * self._errors[active]
            active = active[helps]
            if not len(active):
                break
            self._exchange(active, prune[helps], revive[helps], change[helps])
            counts[active] += 1
        return counts

    def _best(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each row the change of its error by its best exchange, and which entries that prunes and brings back."""
        prune, revive = self._candidates(rows)
        change = self._changes(rows, prune, revive).flatten(1)
        best = change.min(1)
        shape = (len(rows), *torch.broadcast_shapes(prune.shape[1:], revive.shape[1:]))
        place = best.indices[:, None]
        pruned, revived = (each.expand(shape).flatten(1).gather(1, place).squeeze(1) for each in (prune, revive))
        return best.values, pruned, revived

    def _candidates(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which entries are paired, [R, ..., P, 1] and [R, ..., 1, Q]."""
        inputs = self.sparse.shape[1]
        if self._group:
            places = torch.arange(inputs, device=rows.device).view(1, -1, self._group)
            return places[..., None], places[..., None, :]
        sparse, slope = self.sparse[rows], self._slope[rows]
        cost = (2 * sparse * slope + sparse.square() * self._diagonal).masked_fill_(sparse == 0, torch.inf)
        gain = self._gain(slope, self._diagonal, self._dense[rows]).masked_fill_(sparse != 0, -torch.inf)
        width = min(self._method.candidates or inputs, inputs)
        return cost.topk(width, largest=False).indices[:, :, None], gain.topk(width).indices[:, None, :]

    def _changes(self, rows: torch.Tensor, prune: torch.Tensor, revive: torch.Tensor) -> torch.Tensor:
        """Of the rows' errors, [R, ..., P, Q]; infinite for what is no exchange."""
        row = rows.view(-1, *[1] * (prune.dim() - 1))
        pruned, revived = self.sparse[row, prune], self.sparse[row, revive]
        cost = 2 * pruned * self._slope[row, prune] + pruned.square() * self._diagonal[prune]
        slope = self._slope[row, revive] + pruned * self._gram[prune, revive]
        change = cost - self._gain(slope, self._diagonal[revive], self._dense[row, revive])
        return change.masked_fill_((pruned == 0) | (revived != 0), torch.inf)

    def _gain(self, slope: torch.Tensor, diagonal: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """By how much the error falls if an entry comes back: 2 v g − v² G_qq at the value that it gets."""
        value = self._value(slope, diagonal, dense)
        return 2 * value * slope - value.square() * diagonal

    def _value(self, slope: torch.Tensor, diagonal: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """What an entry that comes back becomes; 0 where its input was never active."""
        return torch.where(diagonal > 0, slope / diagonal, 0) if self._method.refit else dense

    def _exchange(self, rows: torch.Tensor, prune: torch.Tensor, revive: torch.Tensor, change: torch.Tensor) -> None:
        """Make one exchange in each of these rows."""
        pruned = self.sparse[rows, prune]
        slope = self._slope[rows, revive] + pruned * self._gram[prune, revive]
        value = self._value(slope, self._diagonal[revive], self._dense[rows, revive])
        self._slope[rows] += pruned[:, None] * self._gram[prune] - value[:, None] * self._gram[revive]
        self._errors[rows] += change
        self.sparse[rows, prune] = 0
        self.sparse[rows, revive] = value
