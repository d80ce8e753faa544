"""How many zeros each weight gets when the whole model has one budget of them.

The problem that Elsa solves has a single constraint on all weights together (arXiv:2510.01650, Eq. 1); its code, like
the layer-wise methods, gives every weight the same share instead. Saliencies of the model's own loss can be compared
between layers, so that the budget can go where it costs least.
"""

from collections.abc import Iterable

import torch

_SHIFT = 18  # of a positive fp32: its exponent and the first 5 bits of its fraction remain, so a bin is 3 % wide
_BINS = 1 << (31 - _SHIFT)
LEAST_DENSITY = 0.1  # of that under equal shares: no layer is cut off


def allocate(saliencies: Iterable[tuple[str, torch.Tensor]], sparsity: float) -> dict[str, int]:
    """Zeros of each named weight when the lowest saliencies (not negative, any shape) of all are zeroed together.

    They sum to `sparsity` of all entries exactly. Saliencies within 3 % at the border count as equal and are shared out
    in proportion. No weight keeps less than `LEAST_DENSITY` of its equal share.
    """
    histograms = {name: _histogram(saliency) for name, saliency in saliencies}
    sizes = {name: int(histogram.sum()) for name, histogram in histograms.items()}
    most = {name: int(size * (1 - LEAST_DENSITY * (1 - sparsity))) for name, size in sizes.items()}
    wanted = round(sparsity * sum(sizes.values()))
    zeros = dict.fromkeys(sizes, 0)
    free = list(sizes)  # weights that have not got all they can take
    while True:
        left = wanted - sum(count for name, count in zeros.items() if name not in free)
        share = _lowest({name: histograms[name] for name in free}, left)
        full = [name for name in free if share[name] > most[name]]
        zeros |= share | {name: most[name] for name in full}
        if not full:
            return zeros
        free = [name for name in free if name not in full]


def _histogram(saliency: torch.Tensor) -> torch.Tensor:
    """Counts by size, on the CPU: the bits of a positive float are ordered as it is."""
    bits = saliency.float().contiguous().view(torch.int32) >> _SHIFT
    return torch.bincount(bits.flatten().clamp_(0, _BINS - 1), minlength=_BINS).cpu()


def _lowest(histograms: dict[str, torch.Tensor], wanted: int) -> dict[str, int]:
    """How many of the `wanted` lowest entries of all lie in each histogram; rounding is settled by name order."""
    below = torch.stack(list(histograms.values())).sum(0).cumsum(0)
    border = int((below < wanted).sum())
    before = int(below[border - 1]) if border else 0
    inside = max(1, int(below[border]) - before)
    zeros, exact, given = {}, before, before
    for name, histogram in histograms.items():
        low = int(histogram[:border].sum())
        exact += int(histogram[border]) * (wanted - before) / inside
        extra = round(exact) - given
        zeros[name], given = low + extra, given + extra
    return zeros
