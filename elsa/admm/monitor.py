"""Whether penalty, learning rate and budget fit each other, in plain words, early in a run and at its end.

The share of the weights' energy that is still off the support when the learning rate is gone is what the last
projection removes. Too small a λ leaves it there; too large a one removes it before the support has had time to move.
"""

import math

from elsa.train.sparse import Distances

_HARMLESS = 1e-3  # share of the energy that a projection may remove
_EARLY = 0.25  # share of the steps before which a support should not be final
_FIRST_LOOK = 0.1


class Monitor:
    """Finds at most one thing to say about the energy off the support early in a run, and one at its end."""

    def __init__(self, first: Distances, travel: float | None, constant: bool, planned: bool = False):
        """`first`: at the start. `travel`: how far the run can move a weight at most (None: no such bound).

        `constant`: λ does not ramp, so that the first tenth of the run tells about the rest. `planned`: λ is that of
        `penalty.Auto`, with which the energy falls last, with the learning rate.
        """
        self.first, self._travel, self._planned = first, travel, planned
        self._look = _FIRST_LOOK if constant else 0.5
        self._said = False

    def add(self, progress: float, now: Distances, travel: float | None) -> str | None:
        """A warning the first time there is reason for one. `travel`: how far the steps that are left reach."""
        if self._said:
            return None
        text = self._too_large(progress, now.energy) or self._out_of_reach(now, travel)
        if text is None and progress >= self._look and not self._planned:
            text = self._too_small(progress, now.energy)
        self._said = text is not None or progress >= self._look
        return text

    def _too_large(self, progress: float, energy: float) -> str | None:
        if progress >= _EARLY or energy > _HARMLESS or self.first.energy <= _HARMLESS:
            return None
        schedule = "a tenth of the penalty, or a schedule that starts at 0"
        less = "a smaller penalty.contraction" if self._planned else schedule
        return (
            f"λ looks too large: after {progress:.0%} of the run only {energy:.2%} of the energy is off the support, "
            f"which can hardly move any more. Try {less}"
        )

    def _out_of_reach(self, now: Distances, travel: float | None) -> str | None:
        if travel is None or now.energy <= 10 * _HARMLESS or now.rms <= travel:
            return None
        return f"{_reach(now, travel)}; {now.energy:.0%} of the energy is there, and no penalty but auto brings it back"

    def _too_small(self, progress: float, energy: float) -> str | None:
        """The energy falls as exp(−rate · travel); travel is what is left of a linearly falling learning rate."""
        energy = max(energy, 1e-12)
        done, left = progress - progress**2 / 2, (1 - progress) ** 2 / 2
        rate = max(0.0, math.log(self.first.energy / energy) / done) if self.first.energy > 0 else 0.0
        expected = energy * math.exp(-rate * left)
        if expected <= 10 * _HARMLESS:
            return None
        return (
            f"λ looks too small: {energy:.0%} of the energy is off the support after {progress:.0%} of the run, and at "
            f"this rate {expected:.0%} will be at the end, for the last projection to remove. {self._advice(expected)}"
        )

    def at_the_end(self, energy: float) -> str:
        """What the last projection removes, and what to change if that is too much."""
        if energy <= _HARMLESS:
            return f"the weights have reached their support: the last projection removes {energy:.2%} of their energy"
        advice = self._advice(energy)
        if energy <= 10 * _HARMLESS:
            return f"the weights have nearly reached their support: {energy:.1%} of their energy is off it. {advice}"
        removed = f"the last projection removes {energy:.0%} of the weights' energy"
        if self._travel is not None and self.first.rms > self._travel:
            return f"{_reach(self.first, self._travel)}: {removed}, and would with any penalty but auto"
        return f"λ too small: {removed}. {advice}"

    def _advice(self, energy: float) -> str:
        if self._planned:
            return "Try a larger penalty.contraction, or more steps"
        return f"Try {_factor(energy)} times the penalty, a higher learning rate, more steps, or penalty=auto"


def _reach(distances: Distances, travel: float) -> str:
    return (
        f"learning rate or steps too small: they move a weight by at most {travel:.2g}, and the weights off the "
        f"support are at {distances.rms:.2g} (root mean square)"
    )


def _factor(energy: float) -> int:
    # the distance at which λ and the loss balance falls as 1 / λ, its energy as 1 / λ²
    return max(2, min(100, round(math.sqrt(energy / _HARMLESS))))
