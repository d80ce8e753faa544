"""Penalty schedules: λ as a function of progress (arXiv:2510.01650; the four of the paper).

λ changes once an interval, right after the z/u update. An interval uses the schedule's value at its end, so that a
ramp from 0 never runs with λ = 0, where the scaled dual u = y/λ has no meaning.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from elsa.errors import require


class Penalty(ABC):
    """A schedule; `at(progress)` gives λ for progress in [0, 1]."""

    @abstractmethod
    def at(self, progress: float) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Constant(Penalty):
    """λ = `value` throughout."""

    value: float

    def __post_init__(self):
        require(self.value > 0, "value", self.value, "the penalty must be positive, for example 0.01")

    def at(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Ramp(Penalty):
    """λ from `start` to `end`."""

    start: float
    end: float

    def __post_init__(self):
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


class Exponential(Ramp):
    """λ = start · (end / start)^progress."""

    def __post_init__(self):
        super().__post_init__()
        require(self.start > 0, "start", self.start, "an exponential schedule starts above 0, for example 1e-4")

    def at(self, progress: float) -> float:
        return self.start * (self.end / self.start) ** progress


@dataclass(frozen=True, kw_only=True)
class Auto(Penalty):
    """A λ that is planned from the number of steps, and acts beside the optimiser instead of through its gradient.

    After every step x moves towards z − u by a share of the distance (as AdamW decays weights beside Adam). The share
    rises like `Cosine` from 0, and all shares together would shrink the weights off the support by e^−`contraction` if
    the loss did not hold them. So neither the gradients' scale nor the learning rate bounds the pull, and what the loss
    holds up against it fades with the learning rate.
    """

    contraction: float

    def __post_init__(self):
        require(self.contraction > 0, "contraction", self.contraction, "positive, for example 8")

    def at(self, progress: float) -> float:
        """The contraction in units of the run: at(progress) / steps is that of one step."""
        return self.contraction * (1 - math.cos(math.pi * progress))

    def share(self, step: int, steps: int) -> float:
        """The part of its distance to z − u that x covers after step 1 … `steps`."""
        return -math.expm1(-self.at(step / steps) / steps)
