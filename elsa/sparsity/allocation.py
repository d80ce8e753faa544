"""How many zeros each weight gets when the whole model has one budget of them.

The problem that Elsa solves has a single constraint on all weights together (arXiv:2510.01650, Eq. 1); its code, like
the layer-wise methods, gives every weight the same share instead. Saliencies of the model's own loss can be compared
between layers, so that the budget can go where it costs least.
"""

from collections.abc import Callable, Iterable, Mapping

import torch

from elsa.distributed.ranks import ONE, Ranks
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.selection import Key

_SHIFT = 18  # of a positive fp32: its exponent and the first 5 bits of its fraction remain, so a bin is 3 % wide
_BINS = 1 << (31 - _SHIFT)
LEAST_DENSITY = 0.1  # of that under equal shares: no layer is cut off


def patterns_of(
    pattern: Pattern, sizes: Mapping[Key, int], saliency: Callable[[Key], torch.Tensor], ranks: Ranks = ONE
) -> dict[Key, Pattern]:
    """The pattern of each weight (`sizes`: its entries): the same for all, unless they share one budget of zeros.

    `saliency(key)`: what zeroing each entry of a weight costs, on `ranks` of this rank's; asked for only where there is
    a budget to place.
    """
    if pattern.allocation == "uniform":
        return dict.fromkeys(sizes, pattern)
    zeros = allocate(((key, saliency(key)) for key in sizes), pattern.sparsity, ranks)
    return {key: Pattern.of_zeros(zeros[key], size) for key, size in sizes.items()}


def allocate(saliencies: Iterable[tuple[Key, torch.Tensor]], sparsity: float, ranks: Ranks = ONE) -> dict[Key, int]:
    """Zeros of each weight when the lowest saliencies (not negative, any shape) of all are zeroed together.

    They sum to `sparsity` of all entries exactly. Saliencies within 3 % at the border count as equal and are shared out
    in proportion. No weight keeps less than `LEAST_DENSITY` of its equal share.
    """
    counted = {name: _histogram(saliency) for name, saliency in saliencies}
    histograms = dict(zip(counted, ranks.sum_(torch.stack(list(counted.values()))), strict=True))
    sizes = {name: int(histogram.sum()) for name, histogram in histograms.items()}
    most = {name: int(size * (1 - LEAST_DENSITY * (1 - sparsity))) for name, size in sizes.items()}
    wanted = round(sparsity * sum(sizes.values()))
    zeros = dict.fromkeys(sizes, 0)
    free = set(sizes)  # weights that have not got all they can take
    while True:
        left = wanted - sum(count for name, count in zeros.items() if name not in free)
        share = _lowest({name: histogram for name, histogram in histograms.items() if name in free}, left)
        full = {name: most[name] for name, count in share.items() if count > most[name]}
        zeros |= share | full
        if not full:
            return zeros
        free -= full.keys()


def _histogram(saliency: torch.Tensor) -> torch.Tensor:
    """Counts by size, on the CPU: the bits of a positive float are ordered as it is."""
    bits = saliency.float().contiguous().view(torch.int32) >> _SHIFT
    return torch.bincount(bits.flatten().clamp_(0, _BINS - 1), minlength=_BINS).cpu()


def _lowest(histograms: dict[Key, torch.Tensor], wanted: int) -> dict[Key, int]:
    """How many of the `wanted` lowest entries of all lie in each histogram; rounding is settled in their order."""
    below = torch.stack(list(histograms.values())).sum(0).cumsum(0)
    border = int((below < wanted).sum())
    before = int(below[border - 1]) if border else 0
    inside = max(1, int(below[border]) - before)
    zeros: dict[Key, int] = {}
    # Rounding the running sum, not each share, makes the counts add up to the budget exactly.
    exact, given = float(before), before
    for name, histogram in histograms.items():
        low = int(histogram[:border].sum())
        exact += int(histogram[border]) * (wanted - before) / inside
        extra = round(exact) - given
        zeros[name], given = low + extra, given + extra
    return zeros
