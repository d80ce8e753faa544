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

    def following(self, penalty: float, progress: float, interval: float, energy: float, previous: float) -> float:
        """λ of the interval that begins at `progress` and takes `interval` of the run, after one with `penalty`.

        `energy`, `previous`: share of the weights' energy off the support now, and when the last interval began.
        """
        return self.at(min(1.0, progress + interval))


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
    """λ follows the run: the energy off the support is steered to `final_energy`, at progress `gone_at`.

    The energy is to fall by the same factor in each interval that is left. After every interval λ is multiplied by
    (fall that is needed / fall that was)^gain, both in logarithms, by at most `largest_change` either way. It steers by
    the rate, not by the distance to a plan, since the rate answers a change of λ at once and the energy much later.
    `start`: λ of the first interval. Scale-free in steps and sparsity.
    """

    start: float
    final_energy: float
    gone_at: float
    gain: float
    largest_change: float

    def __post_init__(self):
        require(self.start > 0, "start", self.start, "the penalty must be positive, for example 0.001")
        require(0 < self.final_energy < 1, "final_energy", self.final_energy, "a share of the energy, for example 1e-4")
        require(0 < self.gone_at <= 1, "gone_at", self.gone_at, "a share of the steps, for example 0.75")
        require(self.gain > 0, "gain", self.gain, "positive, for example 0.5")
        require(self.largest_change > 1, "largest_change", self.largest_change, "above 1, for example 2")

    def at(self, progress: float) -> float:
        return self.start

    def following(self, penalty: float, progress: float, interval: float, energy: float, previous: float) -> float:
        if energy <= self.final_energy:
            return penalty
        intervals_left = max(1.0, (self.gone_at - progress) / interval)
        needed = math.log(energy / self.final_energy) / intervals_left
        fell = math.log(previous / energy) if previous > 0 else 0.0
        change = (needed / fell) ** self.gain if fell > 0 else self.largest_change
        return penalty * min(max(change, 1 / self.largest_change), self.largest_change)
