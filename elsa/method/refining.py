"""What methods share that go over another's result once more, block by block, with the dense weights at hand."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from elsa.errors import require
from elsa.layerwise.driver import BlockPruner
from elsa.method.base import Following, Method, Task
from elsa.method.layerwise import prune_together
from elsa.method.wanda import Wanda
from elsa.model.weights import prunable_weights
from elsa.train.budget import Training


class Refiner(BlockPruner):
    """Refines the blocks of one model. `dense`: its weights before the start method, [O, I] by name, on the CPU."""

    def __init__(self, dense: Mapping[str, torch.Tensor]):
        self._dense = dense

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What it did, for the record."""


@dataclass(frozen=True, kw_only=True)
class Refining(Following):
    """Apply `start`, then refine block after block.

    As many weights stay as `start` has left, in each of its groups of comparison.

    Args:
        start: a method that prunes in one shot.
        calibration_windows: windows of the train split whose activations say what matters.
    """

    start: Method = field(default_factory=Wanda)
    calibration_windows: int = 128

    def __post_init__(self) -> None:
        require(self.calibration_windows >= 1, "calibration_windows", self.calibration_windows, "at least 1")
        one_shot = self.start.prunes and not self.start.trains
        require(one_shot, "start", self.start.label, "a method that prunes in one shot, whose dense weights are a goal")

    def check(self, training: Training) -> None:
        self.start.check(training)

    def draws(self, training: Training) -> set[int]:
        return super().draws(training) | {self.calibration_windows}

    @abstractmethod
    def _refiner(self, dense: Mapping[str, torch.Tensor]) -> Refiner:
        """What refines a model with these dense weights."""

    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        dense = {name: weight.value_OI.to("cpu", copy=True) for name, weight in prunable_weights(model).items()}
        facts = self.start.apply(model, task)
        windows, refiner = task.windows(self.calibration_windows), self._refiner(dense)
        placed = replace(task, pattern=task.pattern.spent())  # `start` has spent the budget
        prune_together(model, refiner, placed, windows)
        return facts | {"calibration_tokens": windows.numel()} | refiner.facts()
