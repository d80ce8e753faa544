"""BEST: gradual pruning by one threshold on a second-order saliency, training within the mask (arXiv:2609.06557)."""

from dataclasses import dataclass

from elsa.method.gradual import Gradual


@dataclass(frozen=True, kw_only=True)
class Best(Gradual):
    """Every `interval` steps zero what has the lowest w² · v in the whole model, v being Adam's second moment.

    arXiv:2609.06557. It starts from the dense weights. The sparsity rises by a cubic law over half of the steps, the
    rest trains within the mask. The authors' code is not out. In the abstract and the headings of its repository:
    second-order saliency, one global threshold, cubic schedule, warm-up and decay. Second-hand: 40 of 4,000 steps
    between updates, half of the steps for the rise, 10 % of warm-up. Chosen here: the decay is linear to 0, moments of
    zeroed weights are kept, and every layer keeps an entry. With `sparsity.allocation=uniform` it is the paper's
    layer-wise ablation.

    Args:
        interval: steps between two updates; null for 1 % of them.
        warmup_fraction: the share of the steps over which the learning rate rises.
    """

    interval: int | None = None
    warmup_fraction: float = 0.1
