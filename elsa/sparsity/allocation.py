"""How many zeros each weight gets when the whole model has one budget of them.

The problem that Elsa solves has a single constraint on all weights together (arXiv:2510.01650, Eq. 1); its code, like
the layer-wise methods, gives every weight the same share instead. Saliencies of the model's own loss can be compared
between layers, so that the budget can go where it costs least.
"""

from collections.abc import Callable, Iterable, Mapping

import torch

from elsa.distributed.ranks import ONE, Ranks
from elsa.sparsity.levels import shared_out, zeros_by_level
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.selection import Key

_SHIFT = 18  # of a positive fp32: its exponent and the first 5 bits of its fraction remain, so a bin is 3 % wide
_BINS = 1 << (31 - _SHIFT)
LEAST_DENSITY = 0.1  # of that under equal shares: no layer is cut off


def patterns_of(
    pattern: Pattern,
    sizes: Mapping[Key, int],
    saliency: Callable[[Key], torch.Tensor],
    ranks: Ranks = ONE,
    least_density: float = LEAST_DENSITY,
) -> dict[Key, Pattern]:
    """The pattern of each weight: the same for all, unless they share one budget of zeros or have levels of their own.

    Args:
        pattern: of all weights together.
        sizes: entries of each weight, by name.
        saliency: what zeroing each entry of a weight costs, on `ranks` of this rank's; asked for only where there is a
            budget to place, a few times.
        ranks: that hold rows of the weights.
        least_density: see `allocate`.
    """
    if pattern.allocation == "global":
        return _of_zeros(allocate(saliency, sizes, pattern.sparsity, ranks, least_density), sizes)
    return patterns_by_level(pattern, sizes)


def patterns_by_level(pattern: Pattern, sizes: Mapping[Key, int]) -> dict[Key, Pattern]:
    """The pattern of each weight by its name; the same for all without levels."""
    if pattern.levels is None:
        return dict.fromkeys(sizes, pattern)
    return _of_zeros(zeros_by_level(pattern.levels, sizes, pattern.sparsity), sizes)


def patterns_of_shares(shares: Mapping[Key, float], sizes: Mapping[Key, int]) -> dict[Key, Pattern]:
    """The pattern of each weight that has this share of zeros, all rounded so that their sum is."""
    return _of_zeros(shared_out(shares, sizes), sizes)


def _of_zeros(zeros: Mapping[Key, int], sizes: Mapping[Key, int]) -> dict[Key, Pattern]:
    return {key: Pattern.of_zeros(zeros[key], size) for key, size in sizes.items()}


def allocate(
    saliency: Callable[[Key], torch.Tensor],
    keys: Iterable[Key],
    sparsity: float,
    ranks: Ranks = ONE,
    least_density: float = LEAST_DENSITY,
) -> dict[Key, int]:
    """Zeros of each weight when the lowest saliencies of all are zeroed together.

    They sum to `sparsity` of all entries exactly, and lie below one threshold; entries equal to it are shared out in
    proportion.

    Args:
        saliency: of each entry of a weight, not negative, any shape.
        keys: of the weights.
        sparsity: the wanted fraction of zeros of all together.
        ranks: that hold rows of the weights.
        least_density: no weight keeps less than this share of what it would under equal ones, or less than one entry.

    Examples:
        >>> costs = {"first": torch.tensor([1.0, 2.0, 9.0, 9.0]), "second": torch.tensor([9.0, 9.0, 9.0, 3.0])}
        >>> allocate(costs.__getitem__, costs, 0.375)
        {'first': 2, 'second': 1}
    """
    histograms = _by_rank(ranks, {key: torch.bincount(_bits(saliency(key)) >> _SHIFT, minlength=_BINS) for key in keys})
    sizes = {key: int(histogram.sum()) for key, histogram in histograms.items()}
    # under equal shares a weight keeps size · (1 − sparsity); of that `least_density` stays in any case
    most = {key: min(size - 1, int(size * (1 - least_density * (1 - sparsity)))) for key, size in sizes.items()}
    wanted = round(sparsity * sum(sizes.values()))
    zeros = dict.fromkeys(sizes, 0)
    free = list(sizes)  # weights that have not got all they can take
    # who cannot take its share takes all it can; the others share out what is left, until all can
    while True:
        left = wanted - sum(count for key, count in zeros.items() if key not in free)
        share = _lowest(saliency, {key: histograms[key] for key in free}, left, ranks)
        full = {key: most[key] for key, count in share.items() if count > most[key]}
        zeros |= share | full
        if not full:
            return zeros
        free = [key for key in free if key not in full]


def _lowest(
    saliency: Callable[[Key], torch.Tensor], histograms: Mapping[Key, torch.Tensor], wanted: int, ranks: Ranks
) -> dict[Key, int]:
    """How many of the `wanted` lowest entries of all lie in each weight; rounding of ties is settled in their order."""
    # the threshold's high bits by one histogram, then its low bits by another: no sort of all weights
    together = torch.stack(list(histograms.values())).sum(0)
    bin_, before = _place(together, wanted)
    inside: torch.Tensor = sum(_inside(_bits(saliency(key)), bin_) for key in histograms)  # type: ignore[assignment]
    fine, before = _place(ranks.sum_(inside).cpu(), wanted, before)
    threshold = bin_ << _SHIFT | fine
    counts = _by_rank(ranks, {key: _below_and_equal(_bits(saliency(key)), threshold) for key in histograms})
    ties = max(1, sum(int(equal) for _, equal in counts.values()))
    zeros: dict[Key, int] = {}
    # Rounding the running sum, not each share, makes the counts add up to the budget exactly.
    exact, given = float(before), before
    for key, (below, equal) in counts.items():
        exact += int(equal) * (wanted - before) / ties
        extra = round(exact) - given
        zeros[key], given = int(below) + extra, given + extra
    return zeros


def _place(histogram: torch.Tensor, wanted: int, before: int = 0) -> tuple[int, int]:
    """The bin that holds the entry number `wanted` (from 1), and how many lie below; `before` lie below all bins."""
    sums = histogram.cumsum(0) + before
    place = min(int((sums < wanted).sum()), len(histogram) - 1)
    return place, int(sums[place - 1]) if place else before


def _bits(saliency: torch.Tensor) -> torch.Tensor:
    """As int32, flat: the bits of a positive float are ordered as it is."""
    # −0.0 has the bits of the lowest integer
    return saliency.float().flatten().view(torch.int32).clamp_min(0)


def _inside(bits: torch.Tensor, bin_: int) -> torch.Tensor:
    """Counts of the low bits of the entries of one bin."""
    low = bits[bits >> _SHIFT == bin_] & ((1 << _SHIFT) - 1)
    return torch.bincount(low, minlength=1 << _SHIFT)


def _below_and_equal(bits: torch.Tensor, threshold: int) -> torch.Tensor:
    return torch.stack([(bits < threshold).sum(), (bits == threshold).sum()])


def _by_rank(ranks: Ranks, counts: Mapping[Key, torch.Tensor]) -> dict[Key, torch.Tensor]:
    """The sums over ranks, on the CPU."""
    return dict(zip(counts, ranks.sum_(torch.stack(list(counts.values()))).cpu(), strict=True))
