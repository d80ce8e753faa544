"""ADMM over all prunable weights, as a constraint of the training loop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from elsa.admm.diagnosis import Diagnosis, Distances
from elsa.admm.optimizer import Stepper
from elsa.admm.penalty import Auto, Constant, Penalty
from elsa.admm.precision import Precision
from elsa.admm.probe import due, holding
from elsa.admm.state import ADMM, Dual
from elsa.admm.storage import rounded
from elsa.sparsity.allocation import patterns_of
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project, saliency

if TYPE_CHECKING:
    from elsa.model.prunable import PrunableWeight


class Admm:
    """minimise f(x) subject to x = z, z in the pattern (arXiv:2510.01650).

    Every step adds λ(x − z + u) to the gradient, or moves x towards z − u after the optimiser's step if the schedule is
    `Auto`. Every `interval` steps z and u are updated, then λ moves on and the scaled dual is rescaled at that moment.
    `objective_aware`: projections weigh entries by Adam's second moment.
    `dual`: how u is updated from step `dual_from` on; before it u is 0, which is a penalty method. `dual_limit`: no
    entry of u exceeds this many times the way that a weight can go until the next update (`travel`), None for no limit.
    After step `polish_from` x is projected and trains on within its support. `supports`: the first supports of z by
    name, None for those of magnitude. `ramp`: the steps over which the sparsity of z rises to the pattern's, 0 to start
    there; `ramp_from`: how far along the rise it begins, 0 to 1. `probe_every`: about how many steps lie between two
    measurements of what costs more than the distances (0: none). `travel`: how far the steps from one to another can
    move a weight, None if nobody knows. `rate`: the learning rate of step 0 … steps − 1.
    """

    def __init__(
        self,
        weights: Mapping[str, "PrunableWeight"],
        stepper: Stepper,
        pattern: Pattern,
        penalty: Penalty,
        precision: Precision,
        *,
        steps: int,
        interval: int,
        objective_aware: bool,
        dual: Dual = ADMM,
        dual_from: int = 0,
        dual_limit: float | None = None,
        polish_from: int | None = None,
        ramp: int = 0,
        ramp_from: float = 0.0,
        supports: Mapping[str, torch.Tensor] | None = None,
        probe_every: int = 0,
        travel: Callable[[int, int], float | None] = lambda first, last: None,
        rate: Callable[[int], float] = lambda step: 1.0,
    ):
        self._weights, self._stepper, self._pattern, self._schedule = weights, stepper, pattern, penalty
        self._steps, self.interval, self._objective_aware, self._travel = steps, interval, objective_aware, travel
        self._rate, self._beside = rate, isinstance(penalty, Auto)
        self._dual, self._dual_from, self._dual_limit, self._polish_from = dual, dual_from, dual_limit, polish_from
        self._ramp, self._ramp_from = ramp, ramp_from
        self._probe_every, self._next = probe_every, 1
        self._stationarity = 0.0  # gathered weight by weight during a step
        start = self._pattern_at(0)
        self._states = {
            name: precision.start_state(weight.value_OI, start, None if supports is None else supports[name])
            for name, weight in weights.items()
        }
        self._support: dict[str, torch.Tensor] = {}  # that x is held to while polishing
        self.mask_changes: dict[int, dict[str, float]] = {}  # by step and weight, the share of entries that changed
        self._sizes = {name: weight.parameter.numel() for name, weight in weights.items()}
        self._name_of = {weight.parameter: name for name, weight in weights.items()}
        self.penalty = self._penalty_until(interval)
        self.before_projection = self.distances()  # so far of the last update
        self._diagnosis = Diagnosis(
            self.before_projection, self._reach(0), constant=isinstance(penalty, Constant), planned=self._beside
        )

    @torch.no_grad()
    def add_gradient(self, parameter: nn.Parameter) -> None:
        name = self._name_of.get(parameter)
        if name in self._support:
            self._weights[name].gradient_OI.mul_(self._support[name])
        elif name is not None:
            weight, state = self._weights[name], self._states[name]
            if self._probing:
                self._stationarity += self._distance_from_stationary(weight, state.kept())
            if not self._beside:
                state.add_proximal_gradient(weight.gradient_OI, weight.value_OI, self.penalty)

    @property
    def _probing(self) -> bool:
        return due(self._next, self._probe_every, self.interval)

    def _penalty_until(self, step: int) -> float:
        """λ of the interval that ends with `step`; of `Auto` its contraction a step over the learning rate."""
        step = min(step, self._steps)
        penalty = self._schedule.at(step / self._steps)
        return penalty / (self._steps * self._rate(step - 1)) if self._beside else penalty

    def _reach(self, step: int) -> float | None:
        """How far a weight can still get after `step`, None if it is not the optimiser alone that moves it."""
        return None if self._beside else self._travel(step, self._steps)

    def _distance_from_stationary(self, weight: "PrunableWeight", kept_OI: torch.Tensor) -> torch.Tensor:
        """‖x − P(x − D⁻¹∇f/λ)‖², P the projection in D's norm with z's number of zeros, ∇f of this batch, clipped.

        D is 1 where λ acts on the gradient. Where it acts beside Adam, D is √v, by which Adam divides.
        """
        value, gradient, pattern = weight.value_OI.float(), weight.gradient_OI.float(), self._pattern
        if pattern.group is None:
            pattern = Pattern.of_zeros(int((~kept_OI).sum()), kept_OI.numel())
        norm = self._stepper.preconditioner(weight.parameter) if self._beside else None
        if norm is not None:
            norm = weight.as_OI(norm)
            gradient = gradient / norm
        return (value - project(value - gradient / self.penalty, pattern, norm)).square().sum()

    @torch.no_grad()
    def after_step(self, step: int) -> dict:
        metrics = self._after_step(step)
        self._next = step + 1
        return metrics

    def _after_step(self, step: int) -> dict:
        for name, support in self._support.items():  # momentum would move what is pruned
            self._weights[name].value_OI.mul_(support)
        if self._support:
            return {}
        if self._beside:
            self._pull(self._schedule.share(step, self._steps))
        metrics = {} if step % self.interval else self._update(step)
        if step == self._polish_from:
            self.project_weights()
            self._support = {name: weight.value_OI != 0 for name, weight in self._weights.items()}
        return metrics

    def _pull(self, share: float) -> None:
        """x moves towards z − u by `share` of the distance."""
        for name, weight in self._weights.items():
            value = weight.value_OI
            value.copy_(rounded(torch.lerp(value.float(), self._states[name].difference().float(), share), value.dtype))

    def _update(self, step: int) -> dict:
        def score(name: str) -> torch.Tensor:
            weight = self._weights[name]
            return self._states[name].saliency(weight.value_OI, self._importance(weight))

        shares, changed, moved, dual = {}, 0, 0.0, self._dual_at(step)
        patterns = patterns_of(self._pattern_at(step), self._sizes, score)
        for name, weight in self._weights.items():
            before = self._states[name].sparse() if self._probing else None
            flips = self._states[name].update(weight.value_OI, patterns[name], self._importance(weight), dual)
            shares[name], changed = flips / self._sizes[name], changed + flips
            if before is not None:
                moved += (self._states[name].sparse() - before).float().square().sum()
        self.mask_changes[step] = shares
        metrics = {"mask_change": changed / sum(self._sizes.values())}
        self.before_projection = now = self.distances()
        metrics |= now.metrics()
        if self._probing:
            metrics |= self._residuals(moved)
        metrics["penalty"] = self.penalty
        warning = self._diagnosis.add(step / self._steps, now, self._reach(step))
        if warning and not self._ramp:  # while z is nearly dense its distance says nothing about λ
            print(f"step {step}: {warning}", flush=True)
        following = self._penalty_until(step + self.interval)
        if following != self.penalty:
            for state in self._states.values():
                state.rescale_dual(self.penalty / following)
            self.penalty = following
        return metrics

    def _dual_at(self, step: int) -> Dual:
        if step < self._dual_from:
            return Dual(retention=0.0)
        if self._dual_limit is None:
            return self._dual
        return replace(self._dual, bound=self._dual_limit * self._travel(step, min(step + self.interval, self._steps)))

    def _residuals(self, moved: torch.Tensor) -> dict:
        """Dual residual ‖z⁺ − z‖ / ‖z⁺‖, and λ-stationarity ‖x − P(x − ∇f/λ)‖ / ‖x‖ (0 at the points that
        arXiv:2510.01650 calls λ-stationary), in Adam's norm where λ acts beside Adam.
        """
        sparse = sum(state.sparse().float().square().sum() for state in self._states.values())
        total = sum(weight.value_OI.float().square().sum() for weight in self._weights.values())
        stationarity, self._stationarity = self._stationarity, 0.0
        return {
            "dual_residual": float((moved / sparse).sqrt()), "stationarity": float((stationarity / total).sqrt()),
        }  # fmt: skip

    def sparse(self) -> AbstractContextManager | None:
        return None if self._support else self._with_sparse_weights()

    @contextmanager
    def _with_sparse_weights(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, weight in self._weights.items():
                stack.enter_context(holding(weight, self._states[name].sparse))
            yield

    @torch.no_grad()
    def distances(self) -> Distances:
        """How far x is from z now."""

        def sums() -> Iterator[torch.Tensor]:
            for name, weight in self._weights.items():
                state, energy = self._states[name], weight.value_OI.float().square()
                off = ~state.kept()
                squares = *state.residual_squared(weight.value_OI), (energy * off).sum(), energy.sum(), off.sum()
                yield torch.stack(squares)

        return Distances.of(sum(sums()))

    @torch.no_grad()
    def project_weights(self) -> None:
        """x ← projection of x onto the pattern, weighed as in the z-update: the end of the run, unless it was polished.

        `before_projection` then holds the distances that x had.
        """
        if self._support:
            return
        self.before_projection = self.distances()

        def score(name: str) -> torch.Tensor:
            weight = self._weights[name]
            return saliency(weight.value_OI.float(), self._importance(weight))

        patterns = patterns_of(self._pattern, self._sizes, score)
        for name, weight in self._weights.items():
            weight.value_OI.copy_(project(weight.value_OI, patterns[name], self._importance(weight)))

    def verdict(self) -> str:
        """What the last projection did to the weights, in words."""
        return self._diagnosis.at_the_end(self.before_projection.energy)

    @property
    def nbytes(self) -> int:
        """Bytes of z, u and mask that are really held."""
        return sum(state.nbytes for state in self._states.values())

    def state(self) -> dict:
        states = {name: state.state() for name, state in self._states.items()}
        return {
            "penalty": self.penalty, "first": tuple(self._diagnosis.first), "states": states, "support": self._support,
            "before_projection": tuple(self.before_projection), "mask_changes": self.mask_changes, "next": self._next,
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        self.penalty, self._diagnosis.first = state["penalty"], Distances(*state["first"])
        self._next, self.mask_changes = state["next"], state["mask_changes"]
        self.before_projection = Distances(*state["before_projection"])
        self._support = {name: kept.to(self._weights[name].value_OI.device) for name, kept in state["support"].items()}
        for name, its_state in self._states.items():
            its_state.restore(state["states"][name])

    def _pattern_at(self, step: int) -> Pattern:
        return self._pattern.rising(step, self._ramp, self._ramp_from)

    def _importance(self, weight: "PrunableWeight") -> torch.Tensor | None:
        return weight.as_OI(self._stepper.second_moment(weight.parameter)) if self._objective_aware else None
