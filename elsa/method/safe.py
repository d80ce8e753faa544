"""SAFE: sparse and flat minima by sharpness-aware ADMM on each block's reconstruction (arXiv:2506.06866)."""

from dataclasses import dataclass

import torch
from torch import nn

from elsa.admm.state import MergedState
from elsa.errors import require
from elsa.layerwise.capture import BlockReplay, relative_error
from elsa.layerwise.driver import Patterns, collect
from elsa.layerwise.statistics import EnergyStatistics
from elsa.method.layerwise import BlockwiseMethod, refuse_shared
from elsa.model.weights import PrunableWeight, entries_of, parameters_of
from elsa.sparsity.projection import project


@dataclass(frozen=True, kw_only=True)
class Safe(BlockwiseMethod):
    """minimise max over ‖ε‖ ≤ `perturbation` of f(x + ε) subject to x in the pattern; f is a block's output error.

    arXiv:2506.06866. x-step: Adam on the gradient at x + perturbation · ∇f/‖∇f‖ (SAM) plus λ(x − z + u), with a
    linearly falling learning rate; z and u as in ADMM; the end is a projection. Deliberate differences: f is relative
    to the energy of the dense block's output, so that one λ serves all blocks; z and u are one tensor. The paper's
    values could not be checked: the defaults were chosen on validation data.

    Args:
        epochs: passes over the calibration windows.
        learning_rate: Adam's at the start.
        penalty: λ.
        perturbation: radius of SAM's ball; 0 turns SAM off.
        interval: steps between two updates of z and u.
        activation_aware: projections weigh entries by their input's energy, as Wanda does (SAFE+).
    """

    epochs: int = 8
    learning_rate: float = 2e-4
    penalty: float = 0.001
    perturbation: float = 2e-4
    interval: int = 16
    activation_aware: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "interval"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "penalty"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.perturbation >= 0, "perturbation", self.perturbation, "not negative; 0 turns SAM off")

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        refuse_shared(self, model)

    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        if not layers:
            return
        assert replay is not None, "it needs inputs"
        importance = self._importance(replay, index, layers)
        targets = replay.outputs(index)
        parameters = list(parameters_of(layers).values())
        others = [~own for own in entries_of(layers).values()]  # of experts that are not to be pruned
        states = {name: MergedState(weight.value_OI, patterns[weight.name]) for name, weight in layers.items()}
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
        steps = self.epochs * len(targets)
        for step in range(steps):
            batch = step % len(targets)
            self._set_gradients(parameters, others, replay, index, batch, targets[batch])
            for name, weight in layers.items():
                states[name].add_proximal_gradient(weight.gradient_OI, weight.value_OI, self.penalty)
            optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - step / steps)
            optimizer.step()
            if (step + 1) % self.interval == 0:
                for name, weight in layers.items():
                    states[name].update(weight.value_OI, patterns[weight.name], importance[name])
        optimizer.zero_grad()
        for name, weight in layers.items():
            weight.write(project(weight.value_OI, patterns[weight.name], importance[name]))

    def _set_gradients(
        self,
        parameters: list[nn.Parameter],
        others: list[torch.Tensor],
        replay: BlockReplay,
        index: int,
        batch: int,
        target: torch.Tensor,
    ) -> None:
        """The gradient of the relative output error at the worst point nearby, into `.grad`."""
        gradients = _error_gradients(parameters, others, replay, index, batch, target)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if self.perturbation and norm > 0:
            steps = [gradient * (self.perturbation / norm) for gradient in gradients]
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.detach().add_(step)
            gradients = _error_gradients(parameters, others, replay, index, batch, target)
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.detach().sub_(step)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _importance(
        self, replay: BlockReplay, index: int, layers: dict[str, PrunableWeight]
    ) -> dict[str, torch.Tensor | None]:
        """Energy of every layer's inputs, [1, I], if projections are to use it."""
        if not self.activation_aware:
            return dict.fromkeys(layers)
        groups = collect(replay, index, layers, EnergyStatistics(), self.few_tokens)
        return {name: energy[None, :] for names, energy in groups for name in names}


@torch.enable_grad()
def _error_gradients(
    parameters: list[nn.Parameter],
    others: list[torch.Tensor],
    replay: BlockReplay,
    index: int,
    batch: int,
    target: torch.Tensor,
) -> list[torch.Tensor]:
    """∇ of ‖block(x) − target‖² / ‖target‖² for one batch, 0 for `others`."""
    output = replay.run(index, replay.hidden[batch], batch)
    gradients = torch.autograd.grad(relative_error(output, target), parameters)
    return [gradient.contiguous().masked_fill_(other, 0) for gradient, other in zip(gradients, others, strict=True)]
