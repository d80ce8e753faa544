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
