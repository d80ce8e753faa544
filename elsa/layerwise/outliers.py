"""OWL: blocks with more outliers keep more weights (arXiv:2310.05175)."""

from collections.abc import Mapping

import torch

from elsa.layerwise.capture import BlockReplay
from elsa.layerwise.driver import BlockPruner, Patterns, collect
from elsa.layerwise.routed import REFUSE
from elsa.layerwise.statistics import EnergyStatistics
from elsa.model.weights import PrunableWeight
from elsa.sparsity.allocation import LEAST_DENSITY

_TIMES = 5.0  # the mean of a block, above which a score is an outlier: M
_WIDTH = 0.08  # how far a block's sparsity may be from the wanted one: λ


class Outliers(BlockPruner):
    """Prunes nothing. `shares`: by number of the block, that of its |W_oi| · ‖x_i‖₂ above 5 times their mean (Eq. 2).

    Blocks without prunable weights have none.
    """

    additive = True

    def __init__(self, few_tokens: str = REFUSE) -> None:
        self.few_tokens = few_tokens
        self.shares: dict[int, float] = {}

    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        if not layers:
            return
        assert replay is not None, "it needs inputs"
        groups = collect(replay, index, layers, EnergyStatistics(), self.few_tokens)
        norms = {name: energy.sqrt() for names, energy in groups for name in names}

        def score(name: str) -> torch.Tensor:
            found: torch.Tensor = layers[name].value_OI.float().abs() * norms[name]
            return found

        entries = sum(weight.numel for weight in layers.values())
        mean = sum(float(score(name).sum(dtype=torch.float64)) for name in layers) / entries
        self.shares[index] = sum(int((score(name) > _TIMES * mean).sum()) for name in layers) / entries


def block_sparsities(outliers: Mapping[int, float], sizes: Mapping[int, int], sparsity: float) -> dict[int, float]:
    """The sparsity of each block: the wanted one, less in proportion to how many more outliers it has than the mean.

    `sizes`: entries of each, by which the mean of the sparsities is the wanted one. None is further from it than 0.08,
    or than leaves a block a tenth of its equal share of kept weights, and the one furthest is as far as that. The
    authors' code has the same mean, with 0.16 between the largest and the smallest.
    """
    total = sum(sizes.values())
    mean = sum(outliers[block] * size for block, size in sizes.items()) / total
    above = {block: outliers[block] - mean for block in sizes}
    furthest = max(map(abs, above.values()))
    width = min(_WIDTH, sparsity, (1 - LEAST_DENSITY) * (1 - sparsity))
    return {block: sparsity - (width * each / furthest if furthest else 0.0) for block, each in above.items()}
