"""Methods: one file, one class, one YAML in `conf/method` each.

To add one, write `elsa/method/<name>.py` with a frozen dataclass whose fields are its knobs, and
`conf/method/<name>.yaml` with `_target_` and a value for every field. A layer-wise method inherits `LayerwiseMethod`
and writes `prune`; any other inherits `Method` and writes `apply`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from elsa.admm.loop import Checkpoints, NoCheckpoints
from elsa.admm.loss import squared_gradients
from elsa.admm.optimizer import Stepper
from elsa.admm.penalty import Penalty
from elsa.admm.precision import Precision
from elsa.admm.training import Training
from elsa.errors import require
from elsa.layerwise.driver import BlockPruner, LayerPruner, prune_blocks
from elsa.layerwise.statistics import add_to_gram, empty_gram
from elsa.model.prunable import decoder_blocks, linear_weights
from elsa.sparsity.allocation import patterns_of
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import saliency


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run hands to its method.

    `windows(count)`: int32 token windows [count, L] of the train split. `activations`: where block-wise methods keep a
    block's inputs (`elsa.layerwise.activations`). `checkpoints`: where training keeps its state.
    `probe_every`: of `Loop`.
    """

    pattern: Pattern
    training: Training
    penalty: Penalty
    precision: Precision
    windows: Callable[[int], torch.Tensor]
    log: Callable[[int, dict], None]
    activations: str = "auto"
    probe_every: int = 0
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)


class Method(ABC):
    """`reads`: the config groups, besides model and method, that change its result; they name the run folder."""

    reads: ClassVar[tuple[str, ...]] = ("sparsity", "data", "seed")

    def check(self, training: Training) -> None:  # noqa: B027 (most methods have nothing to check)
        """Raise `UserError` if the method cannot run with this training."""

    @abstractmethod
    def apply(self, model: nn.Module, task: Task) -> dict:
        """Change `model` in place; return facts for the record."""


@dataclass(frozen=True, kw_only=True)
class BlockwiseMethod(BlockPruner, Method):
    """A pruner run by the shared driver on `calibration_windows` windows of the train split."""

    calibration_windows: int

    def __post_init__(self):
        require(self.calibration_windows >= 1, "calibration_windows", self.calibration_windows, "at least 1")

    def apply(self, model: nn.Module, task: Task) -> dict:
        windows = task.windows(self.calibration_windows)
        prune_model(model, self, task.pattern, windows, task.activations)
        return {"calibration_tokens": windows.numel()}


class LayerwiseMethod(LayerPruner, BlockwiseMethod):
    """A block-wise method that goes layer by layer."""


class GramMethod(LayerwiseMethod):
    """A layer-wise method whose statistic is the Gram matrix of the inputs."""

    def init_statistics(self, weight_OI: torch.Tensor) -> torch.Tensor:
        return empty_gram(weight_OI)

    def update_statistics(self, statistics: torch.Tensor, inputs_TI: torch.Tensor) -> None:
        add_to_gram(statistics, inputs_TI)


def prune_model(
    model: nn.Module, pruner: BlockPruner, pattern: Pattern, windows_NL: torch.Tensor | None, place: str = "auto"
) -> None:
    """Run the shared driver over all blocks of `model`.

    A global budget is placed by what zeroing an entry would cost the model's own loss: w² times the mean squared
    gradient of the dense model's cross-entropy over the windows (the diagonal of its empirical Fisher information),
    which takes the memory of a backward pass; or w² alone for a method without data.
    """
    model.eval()
    blocks = decoder_blocks(model)
    weights = [linear_weights(block, f"block {index}: ") for index, block in enumerate(blocks)]
    sizes = {weight.parameter: weight.parameter.numel() for block in weights for weight in block.values()}
    importance: dict[nn.Parameter, torch.Tensor] = {}
    if pattern.allocation == "global" and windows_NL is not None:
        importance = dict(zip(sizes, squared_gradients(model, list(sizes), windows_NL), strict=True))
    patterns = patterns_of(pattern, sizes, lambda weight: saliency(weight.detach().float(), importance.get(weight)))
    prune_blocks(model, blocks, weights, pruner, patterns, windows_NL, place)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """All parameters that get a gradient, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def state_bytes(model: nn.Module, stepper: Stepper) -> dict[str, float]:
    """Bytes a parameter that weights and moments really hold."""
    numel = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return {"weights_per_parameter": weights / numel, "moments_per_parameter": stepper.nbytes / numel}


def teacher_of(model: nn.Module, training: Training, precision: Precision) -> nn.Module | None:
    """A frozen copy of the dense model in the run's precision, if training is to distil from it."""
    if not training.distillation:
        return None
    return copy.deepcopy(model).to(getattr(torch, precision.weights)).eval().requires_grad_(False)
