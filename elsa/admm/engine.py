"""ADMM over all prunable weights, as a constraint of training."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch

from elsa.admm.monitor import Monitor
from elsa.admm.penalty import Penalty
from elsa.admm.phases import Phases
from elsa.admm.state import start_state, upgraded
from elsa.model.weights import PrunableWeight
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project, saliency
from elsa.train.budget import Training
from elsa.train.precision import Precision
from elsa.train.probe import due, holding
from elsa.train.sparse import Distances, Projection, SparseConstraint
from elsa.tree import with_tensors

_log = logging.getLogger(__name__)


class Admm(SparseConstraint):
    """minimise f(x) subject to x = z, z in the pattern (arXiv:2510.01650).

    Every step λ draws x to z − u as `penalty` says, by default as λ(x − z + u) in the gradient. Every interval z and u
    are updated, then λ moves on and the scaled dual is rescaled at that moment. `supports`: the first supports of z by
    name, None for those of magnitude. `probe_every`: about how many steps lie between two measurements of what costs
    more than the distances (0: none).
    """

    def __init__(
        self,
        projection: Projection,
        penalty: Penalty,
        precision: Precision,
        phases: Phases,
        training: Training,
        supports: Mapping[str, torch.Tensor] | None = None,
        probe_every: int = 0,
    ):
        super().__init__(projection, phases.interval)
        self._schedule, self._phases, self._training = penalty, phases, training
        self._probe_every, self._next = probe_every, 1
        self._stationarity: torch.Tensor | float = 0.0  # gathered weight by weight during a step
        # what is supported already is not selected
        first = projection.first_selectors() if supports is None else dict.fromkeys(supports, projection.pattern)
        self._states = {
            name: start_state(
                weight.value_OI, first[name], precision, None if supports is None else supports[name], projection.ranks
            )
            for name, weight in self._weights.items()
        }
        self._support: dict[str, torch.Tensor] = {}  # that x is held to while polishing
        self.penalty = self._penalty_until(phases.interval)
        self.before_projection = self.distances()
        self._monitor = Monitor(
            self.before_projection, self._reach(0), constant=not penalty.ramps, planned=penalty.decoupled
        )

    @torch.no_grad()
    def on_gradient(self, name: str) -> None:
        for weight in self._projection.held.get(name, ()):
            if self._support:
                # the polish phase: x trains within its support
                weight.gradient_OI.mul_(self._support[weight.name])
                continue
            # before the penalty comes in: this is the loss's own gradient
            if moments := self._projection.loss_moments:
                moments.add(weight)
            state = self._states[weight.name]
            if self._probing:
                self._stationarity += self._distance_from_stationary(weight, state.mask())
            # after clipping, which is of the loss's gradient alone
            self._schedule.on_gradient(weight, state, self.penalty)

    @property
    def _loss_moments(self) -> dict[str, torch.Tensor]:
        moments = self._projection.loss_moments
        return {} if moments is None else moments.of

    @property
    def _probing(self) -> bool:
        return due(self._next, self._probe_every, self._phases.interval)

    def _penalty_until(self, step: int) -> float:
        """λ of the interval that ends with `step`."""
        steps = self._phases.steps
        return self._schedule.of_interval(min(step, steps), steps, self._training.learning_rate_at)

    def _reach(self, step: int) -> float | None:
        """How far a weight can still get after `step`, None if it is not the optimiser alone that moves it."""
        return None if self._schedule.decoupled else self._training.travel(step, self._phases.steps)

    def _distance_from_stationary(self, weight: PrunableWeight, mask_OI: torch.Tensor) -> torch.Tensor:
        """‖x − P(x − D⁻¹∇f/λ)‖², P the projection in D's norm with z's number of zeros, ∇f of this batch, clipped.

        D is 1 where λ acts on the gradient. Where it acts beside Adam, D is √v, by which Adam divides.
        """
        value, gradient, pattern = weight.value_OI.float(), weight.gradient_OI.float(), self._projection.pattern
        if pattern.group is None:
            # with a global budget or a rising sparsity every z has a number of zeros of its own
            zeros = self._projection.ranks.sum_((~mask_OI).sum())
            pattern = Pattern.of_zeros(int(zeros), weight.numel)
        optimizer = self._projection.optimizer
        norm = optimizer.preconditioner(weight.parameter_name) if self._schedule.decoupled else None
        if norm is not None:
            norm = weight.as_OI(norm)
            gradient = gradient / norm
        target = value - gradient / self.penalty
        chosen = self._projection.selectors({weight.name: pattern}, lambda _: saliency(target, norm))
        return (value - project(target, chosen[weight.name], norm)).square().sum()

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        metrics = self._after_step(step)
        self._next = step + 1
        return metrics

    def _after_step(self, step: int) -> dict[str, float]:
        for name, support in self._support.items():  # momentum would move what is pruned
            self._weights[name].value_OI.mul_(support)
        if self._support:
            return {}
        for name, weight in self._weights.items():
            self._schedule.after_step(weight, self._states[name], step, self._phases.steps)
        # after the pull: z and u are made of the x that the next step begins with
        metrics = {} if step % self._phases.interval else self._update(step)
        if step == self._phases.polish_from:
            self._project_weights()
            self._support = {name: weight.value_OI != 0 for name, weight in self._weights.items()}
        return metrics

    def _update(self, step: int) -> dict[str, float]:
        metrics, moved = self._update_states(step)
        self.before_projection = now = self.distances()
        metrics |= now.metrics()
        if self._probing:
            metrics |= self._residuals(moved)
        metrics["penalty"] = self.penalty
        warning = self._monitor.add(step / self._phases.steps, now, self._reach(step))
        if warning and not self._projection.rise.steps:  # while z is nearly dense its distance says nothing about λ
            _log.warning("step %d: %s", step, warning)
        # last, so that u has gathered the whole interval under one λ
        self._move_penalty(self._penalty_until(step + self._phases.interval))
        return metrics

    def _update_states(self, step: int) -> tuple[dict[str, float], torch.Tensor]:
        """z and u of all weights anew; the share of mask entries that changed, and ‖z⁺ − z‖² where a probe is due."""

        def its_saliency(name: str) -> torch.Tensor:
            return self._states[name].saliency(self._weights[name].value_OI, self._projection.importance(name))

        chosen = self._projection.selectors(
            self._projection.patterns(self._projection.at(step), its_saliency), its_saliency
        )
        flips, moved, dual = {}, torch.zeros(()), self._phases.dual_at(step, self._training)
        for name, weight in self._weights.items():
            state = self._states[name]
            before = state.sparse() if self._probing else None
            flips[name] = state.update(weight.value_OI, chosen[name], self._projection.importance(name), dual)
            if before is not None:
                moved = moved.to(before.device) + (state.sparse() - before).float().square().sum()
        return self._note_flips(step, flips), moved

    def _move_penalty(self, following: float) -> None:
        """λ changes, and with it the scaled dual u = y / λ, so that y stays."""
        if following != self.penalty:
            for state in self._states.values():
                state.rescale_dual(self.penalty / following)
            self.penalty = following

    def _residuals(self, moved: torch.Tensor) -> dict[str, float]:
        """Dual residual ‖z⁺ − z‖ / ‖z⁺‖, and λ-stationarity ‖x − P(x − ∇f/λ)‖ / ‖x‖ (0 at the points that
        arXiv:2510.01650 calls λ-stationary), in Adam's norm where λ acts beside Adam.
        """
        sparse = reduce(torch.add, (state.sparse().float().square().sum() for state in self._states.values()))
        total = reduce(torch.add, (weight.value_OI.float().square().sum() for weight in self._weights.values()))
        stationarity, self._stationarity = torch.as_tensor(self._stationarity).to(total.device), 0.0
        sums = self._projection.ranks.sum_(torch.stack([moved.to(total.device), sparse, stationarity, total]))
        moved, sparse, stationarity, total = sums
        return {
            "dual_residual": float((moved / sparse).sqrt()), "stationarity": float((stationarity / total).sqrt()),
        }  # fmt: skip

    def sparse(self) -> AbstractContextManager[object] | None:
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
                off = ~state.mask()
                squares = *state.residual_squared(weight.value_OI), (energy * off).sum(), energy.sum(), off.sum()
                yield torch.stack(squares)

        return Distances.of(sums(), self._projection.ranks)

    @torch.no_grad()
    def _project_weights(self) -> None:
        """Weighed as in the z-update. Nothing is left to do at the end if the weights were polished."""
        if self._support:
            return
        self.before_projection = self.distances()

        def score_of(name: str) -> torch.Tensor:
            return saliency(self._weights[name].value_OI, self._projection.importance(name))

        # of x alone: u is the force of the loss on x, and no part of the weights
        chosen = self._projection.selectors(self._projection.patterns(self._projection.pattern), score_of)
        for name, weight in self._weights.items():
            weight.write(project(weight.value_OI, chosen[name], self._projection.importance(name)))

    def verdict(self) -> str:
        return self._monitor.at_the_end(self.before_projection.energy)

    @property
    def nbytes(self) -> int:
        """Bytes of z, u and mask that are really held."""
        return sum(state.nbytes for state in self._states.values())

    def state(self) -> dict[str, Any]:
        states = {name: with_tensors(state.state(), self._weights[name].spread) for name, state in self._states.items()}
        return super().state() | {
            "penalty": self.penalty, "first": tuple(self._monitor.first), "states": states,
            "support": self._spread(self._support), "next": self._next,
            "loss_moments": self._spread(self._loss_moments),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.penalty, self._monitor.first, self._next = state["penalty"], Distances(*state["first"]), state["next"]
        self._support = self._own_rows(state["support"])
        self._loss_moments.update(self._own_rows(state.get("loss_moments", {})))
        for name, its_state in self._states.items():
            weight = self._weights[name]
            its_state.restore(with_tensors(upgraded(state["states"][name], weight.shape_OI), weight.own_rows))
