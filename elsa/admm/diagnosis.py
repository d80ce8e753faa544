"""Whether penalty, learning rate and budget fit each other, in plain words, early in a run and at its end.

The share of the weights' energy that is still off the support when the learning rate is gone is what the last
projection removes. Too small a λ leaves it there; too large a one removes it before the support has had time to move.
"""

import math

_HARMLESS = 1e-3  # share of the energy that a projection may remove
_EARLY = 0.25  # share of the steps before which a support should not be final
_FIRST_LOOK = 0.1


class Diagnosis:
    """Says at most one thing about the energy off the support early in a run, and one at its end."""

    def __init__(self, first_energy: float, constant: bool):
        """`constant`: λ does not ramp, so that the first tenth of the run tells about the rest."""
        self.first_energy = first_energy
        self._look = _FIRST_LOOK if constant else 0.5
        self._said = False

    def add(self, progress: float, energy: float) -> str | None:
        """A warning the first time there is reason for one."""
        if self._said:
            return None
        text = self._too_large(progress, energy) or (
            self._too_small(progress, energy) if progress >= self._look else None
        )
        self._said = text is not None or progress >= self._look
        return text

    def _too_large(self, progress: float, energy: float) -> str | None:
        if progress >= _EARLY or energy > _HARMLESS or self.first_energy <= _HARMLESS:
            return None
        return (
            f"λ looks too large: after {progress:.0%} of the run only {energy:.2%} of the energy is off the support, "
            "which can hardly move any more. Try a tenth of the penalty, or a schedule that starts at 0"
        )

    def _too_small(self, progress: float, energy: float) -> str | None:
        """The energy falls as exp(−rate · travel); travel is what is left of a linearly falling learning rate."""
        energy = max(energy, 1e-12)
        done, left = progress - progress**2 / 2, (1 - progress) ** 2 / 2
        rate = max(0.0, math.log(self.first_energy / energy) / done) if self.first_energy > 0 else 0.0
        expected = energy * math.exp(-rate * left)
        if expected <= 10 * _HARMLESS:
            return None
        return (
            f"λ looks too small: {energy:.0%} of the energy is off the support after {progress:.0%} of the run, and at "
            f"this rate {expected:.0%} will be at the end, for the last projection to remove. Try {_factor(expected)} "
            "times the penalty, a higher learning rate, more steps, or penalty=auto"
        )

    def at_the_end(self, energy: float) -> str:
        """What the last projection removes, and what to change if that is too much."""
        if energy <= _HARMLESS:
            return f"the weights have reached their support: the last projection removes {energy:.2%} of their energy"
        advice = f"Try {_factor(energy)} times the penalty, a higher learning rate, more steps, or penalty=auto"
        if energy <= 10 * _HARMLESS:
            return f"the weights have nearly reached their support: {energy:.1%} of their energy is off it. {advice}"
        return f"λ too small: the last projection removes {energy:.0%} of the weights' energy. {advice}"


def _factor(energy: float) -> int:
    return max(2, min(100, round(math.sqrt(energy / _HARMLESS))))
