"""What happens when in a run of ADMM."""

from dataclasses import dataclass, replace

from elsa.admm.state import ADMM, Dual
from elsa.train.budget import Training


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Every `interval` steps z and u are updated; λ is scheduled over `steps`.

    `dual`: how u is updated from step `dual_from` on; before it u is 0, which is a penalty method. `dual_limit`: no
    entry of u exceeds this many times the way that a weight can go until the next update, None for no limit. After step
    `polish_from` x is projected and trains on within its support; None for never.
    """

    steps: int
    interval: int
    dual: Dual = ADMM
    dual_from: int = 0
    dual_limit: float | None = None
    polish_from: int | None = None

    def dual_at(self, step: int, training: Training) -> Dual:
        """How u is updated after `step`."""
        if step < self.dual_from:
            return Dual(retention=0.0)
        if self.dual_limit is None:
            return self.dual
        reach = training.travel(step, min(step + self.interval, self.steps))
        assert reach is not None, "steps of this optimiser have no bound"
        return replace(self.dual, bound=self.dual_limit * reach)
