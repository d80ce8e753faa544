"""Penalties: λ as a function of progress (arXiv:2510.01650; the four schedules of the paper), and how it acts.

λ changes once an interval, right after the z/u update. An interval uses the schedule's value at its end, so that a
ramp from 0 never runs with λ = 0, where the scaled dual u = y/λ has no meaning.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from elsa.admm.pull import pull_
from elsa.admm.state import State
from elsa.errors import require
from elsa.model.weights import PrunableWeight


class Penalty(ABC):
    """A schedule of λ, which acts through the gradient unless a subclass says otherwise.

    `decoupled`: it acts beside the optimiser, as AdamW's decay does. `ramps`: λ changes, so that the first part of a
    run does not tell about the rest.
    """

    decoupled: ClassVar[bool] = False
    ramps: ClassVar[bool] = True

    @abstractmethod
    def at(self, progress: float) -> float:
        """λ for `progress` in [0, 1]."""

    def of_interval(self, end: int, steps: int, rate: Callable[[int], float]) -> float:
        """λ of one interval between two updates of z and u.

        Args:
            end: its last step.
            steps: of the run.
            rate: the learning rate of step 0 … steps − 1.
        """
        return self.at(end / steps)

    def on_gradient(self, weight: PrunableWeight, state: State, value: float) -> None:
        """What λ does to the gradient of a weight, in place: λ(x − z + u) is added (arXiv:2510.01650, the x-update).

        Args:
            weight: x and its gradient.
            state: z and u.
            value: λ.
        """
        state.add_proximal_gradient(weight.gradient_OI, weight.value_OI, value)

    def after_step(self, weight: PrunableWeight, state: State, step: int, steps: int) -> None:  # noqa: B027
        """What is done to a weight after the optimiser's step; by default nothing.

        Args:
            weight: x.
            state: z and u.
            step: 1 … `steps`.
            steps: of the run.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Penalty):
    """λ is the same throughout.

    Args:
        value: λ.
    """

    ramps = False

    value: float = 0.01

    def __post_init__(self) -> None:
        require(self.value > 0, "value", self.value, "the penalty must be positive, for example 0.01")

    def at(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Ramp(Penalty):
    """λ changes from one value to another.

    Args:
        start: λ at the beginning of the run.
        end: λ at its end.
    """

    start: float = 0.0
    end: float = 0.01

    def __post_init__(self) -> None:
        require(self.start >= 0, "start", self.start, "a penalty is not negative")
        require(self.end > 0, "end", self.end, "the penalty must end positive, for example 0.01")


class Linear(Ramp):
    """λ = start + (end − start) · progress."""

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


class Cosine(Ramp):
    """λ = start + (end − start) · (1 − cos(π · progress)) / 2."""

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class Exponential(Ramp):
    """λ = start · (end / start)^progress.

    Args:
        start: λ at the beginning, above 0.
    """

    start: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.start > 0, "start", self.start, "an exponential schedule starts above 0, for example 1e-4")

    def at(self, progress: float) -> float:
        return float(self.start * (self.end / self.start) ** progress)


@dataclass(frozen=True, kw_only=True)
class Auto(Penalty):
    """A λ that is planned from the number of steps, and acts beside the optimiser instead of through its gradient.

    After every step x moves towards z − u by a share of the distance (as AdamW decays weights beside Adam). The share
    rises like `Cosine` from 0. So neither the gradients' scale nor the learning rate bounds the pull, and what the loss
    holds up against it fades with the learning rate.

    Args:
        contraction: all shares together would shrink the weights off the support by e^−`contraction` if the loss did
            not hold them.
    """

    decoupled = True

    contraction: float = 20.0

    def __post_init__(self) -> None:
        require(self.contraction > 0, "contraction", self.contraction, "positive, for example 8")

    def at(self, progress: float) -> float:
        """The contraction in units of the run at `progress` in [0, 1]: at(progress) / steps is that of one step."""
        return self.contraction * (1 - math.cos(math.pi * progress))

    def of_interval(self, end: int, steps: int, rate: Callable[[int], float]) -> float:
        """The contraction of a step over the learning rate: what a λ in Adam's gradient would be."""
        return self.at(end / steps) / (steps * rate(end - 1))

    def on_gradient(self, weight: PrunableWeight, state: State, value: float) -> None:
        """Nothing: the optimiser sees the loss alone."""

    def after_step(self, weight: PrunableWeight, state: State, step: int, steps: int) -> None:
        """x moves towards z − u by `share` of the distance."""
        pull_(weight.value_OI, state, self.share(step, steps))

    def share(self, step: int, steps: int) -> float:
        """The part of its distance to z − u that x covers after `step` 1 … `steps`."""
        return -math.expm1(-self.at(step / steps) / steps)
