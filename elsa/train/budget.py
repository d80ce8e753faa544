"""The budget and optimiser settings of every method that trains."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from elsa.errors import require


@dataclass(frozen=True, kw_only=True)
class Training:
    """Budget and optimiser of every method that trains.

    Args:
        steps: of the optimiser.
        batch_size: windows a step, of all ranks together.
        accumulation: parts in which the windows of a step go through the model, at least one a rank.
        optimizer: adam, or sgd with momentum `beta1`.
        learning_rate: the highest.
        warmup_steps: over which the learning rate rises from 0; null for the method's own.
        decay_fraction: the share of the steps, at the end, in which it falls linearly to 0 (1.0: from the first step,
            as in the paper).
        beta1: Adam's decay of the mean gradient.
        beta2: Adam's decay of the mean squared gradient, by which projections are weighed.
        gradient_clip: largest global norm of the loss's gradient.
        autocast: bfloat16, or none for fp32.
        distillation: weight of the KL divergence from the dense model's next-token distribution; the rest of the loss
            is cross-entropy with the text.
        hidden_distillation: weight of the distance from the dense model's hidden states (`elsa.train.loss`; SquareHead,
            arXiv:2310.06927); null for the method's own where there is distillation.
        distinct_windows: how many windows of text there are; null for as many as the budget takes; fewer are repeated
            epoch by epoch.
        fixed_order: sums are made in an order that does not depend on the number of ranks, so that 1, 2, 4 ... give the
            same bits; it costs time and, with more parts than ranks, memory.

    Raises:
        UserError: for a value that is out of its range.
    """

    steps: int = 4096
    batch_size: int = 8
    accumulation: int = 1
    optimizer: str = "adam"
    learning_rate: float = 2e-4
    warmup_steps: int | None = 0
    decay_fraction: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_clip: float = 1.0
    autocast: str = "bfloat16"
    distillation: float = 0.0
    hidden_distillation: float | None = 0.0
    distinct_windows: int | None = None
    fixed_order: bool = False

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        divides = self.accumulation >= 1 and self.batch_size % self.accumulation == 0
        require(divides, "accumulation", self.accumulation, f"a divisor of batch_size={self.batch_size}")
        require(self.optimizer in ("adam", "sgd"), "optimizer", self.optimizer, "known: adam, sgd")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive, for example 2e-4")
        warm = self.warmup_steps is None or 0 <= self.warmup_steps < self.steps
        wanted = f"from 0 to below steps={self.steps}, or null for the method's own"
        require(warm, "warmup_steps", self.warmup_steps, wanted)
        require(0 <= self.decay_fraction <= 1, "decay_fraction", self.decay_fraction, "a share of the steps, 0 to 1")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "in [0, 1), for example 0.9")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "in [0, 1), for example 0.95")
        require(self.gradient_clip > 0, "gradient_clip", self.gradient_clip, "positive, for example 1.0")
        require(0 <= self.distillation <= 1, "distillation", self.distillation, "a weight, 0 to 1")
        weight = self.hidden_distillation is None or self.hidden_distillation >= 0
        wanted = "a weight from 0 up, or null for the method's own"
        require(weight, "hidden_distillation", self.hidden_distillation, wanted)
        some = self.distinct_windows is None or self.distinct_windows >= 1
        require(some, "distinct_windows", self.distinct_windows, "at least 1, or null for as many as the budget takes")
        require(self.autocast in ("bfloat16", "none"), "autocast", self.autocast, "known: bfloat16, none")

    def filled(self, warmup_steps: Callable[[int], int], hidden_distillation: float) -> "Training":
        """With these, of a method, where it leaves the choice to that.

        Args:
            warmup_steps: of a run of so many steps.
            hidden_distillation: its weight, where there is distillation.
        """
        warm = warmup_steps(self.steps) if self.warmup_steps is None else self.warmup_steps
        own = hidden_distillation if self.distillation else 0.0
        hidden = own if self.hidden_distillation is None else self.hidden_distillation
        return replace(self, warmup_steps=warm, hidden_distillation=hidden)

    @property
    def distils(self) -> bool:
        """Whether it asks the dense model."""
        return bool(self.distillation or self.hidden_distillation)

    def check_ranks(self, size: int) -> None:
        """Raise `UserError` if a step cannot be dealt out evenly to `size` ranks."""
        parts = max(self.accumulation, size)
        divides = self.batch_size % parts == 0
        require(divides, "batch_size", self.batch_size, f"{size} ranks need a multiple of {parts} windows a step")
        even = parts % size == 0
        require(even, "accumulation", self.accumulation, f"a multiple of the {size} ranks, or fewer than they are")
        if self.fixed_order:
            power = size & (size - 1) == 0
            require(power, "fixed_order", True, f"keeps its promise on 1, 2, 4, 8 ... ranks, not on {size}")
            enough = self.accumulation >= size
            wanted = f"at least the {size} ranks with fixed_order=true: parts must not depend on their number"
            require(enough, "accumulation", self.accumulation, wanted)

    @property
    def distinct(self) -> int:
        """How many windows of text the budget takes."""
        every = self.steps * self.batch_size
        return min(self.distinct_windows or every, every)

    def windows(self, draw: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """`windows_NL` of all steps. `draw(count)` gives that many; later epochs have orders of their own."""
        count, distinct = self.steps * self.batch_size, self.distinct
        # which windows there are the run's seed has drawn; here only later epochs are shuffled
        windows_NL, random = draw(distinct), torch.Generator().manual_seed(0)
        orders = [torch.arange(distinct)]
        while len(orders) * distinct < count:
            orders.append(torch.randperm(distinct, generator=random))
        return windows_NL if len(orders) == 1 else windows_NL[torch.cat(orders)[:count]]

    def learning_rate_at(self, step: int) -> float:
        """The rate of `step` 0 … steps − 1: linear warm-up, plateau, linear decay that would reach 0 at `steps`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        decay_steps = self.decay_fraction * self.steps
        decay = min(1.0, (self.steps - step) / decay_steps) if decay_steps else 1.0
        return self.learning_rate * min(warm, decay)

    def travel(self, first: int, last: int) -> float | None:
        """About how far steps `first` … `last` − 1 can move a weight at most: one of Adam's steps moves it by the rate.

        None for an optimiser whose steps have no such bound.
        """
        if self.optimizer != "adam":
            return None
        return sum(self.learning_rate_at(step) for step in range(first, last))
