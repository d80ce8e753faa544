"""What a method is, and what a run hands to it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from elsa.admm.penalty import Auto, Penalty
from elsa.errors import require
from elsa.method.registry import registered_name
from elsa.sparsity.pattern import Pattern
from elsa.train.budget import Training
from elsa.train.precision import Precision
from elsa.train.task import TrainingTask


@dataclass(frozen=True, kw_only=True)
class Task(TrainingTask):
    """What a run hands to its method, beside what training needs.

    Args:
        pattern: of all prunable weights together, its allocation filled in.
        penalty: of a method that draws weights to their support.
        activations: where block-wise methods keep a block's inputs: "auto", "device", "cpu" or "disk"
            (`elsa.layerwise.activations`).
    """

    pattern: Pattern
    penalty: Penalty = field(default_factory=Auto)
    activations: str = "auto"


class Method(ABC):
    """A way to make a model sparse. It says what it is, so that nobody asks for its class."""

    @property
    def prunes(self) -> bool:
        """Whether it makes zeros."""
        return True

    @property
    def trains(self) -> bool:
        """Whether it trains the whole model on its own loss."""
        return False

    @property
    def first(self) -> "Method | None":
        """The method that it lets change the model before it trains, if there is one."""
        return None

    @property
    def uses_data(self) -> bool:
        """Whether it looks at text, in an order that the seed draws."""
        return True

    @property
    def uses_penalty(self) -> bool:
        """Whether a penalty draws the weights to their support."""
        return False

    @property
    def reads(self) -> frozenset[str]:
        """The config groups, besides model and method, that change its result: part of what names its run."""
        groups = {"sparsity"} if self.prunes else set()
        groups |= {"data", "seed"} if self.uses_data else set()
        groups |= {"training", "precision"} if self.trains else set()
        return frozenset(groups | ({"penalty"} if self.uses_penalty else set()))

    @property
    def label(self) -> str:
        """Its name in tables: that of its YAML."""
        return registered_name(type(self))

    @property
    def allocation(self) -> str:
        """How its zeros are shared out among the weights where `sparsity.allocation` is null: uniform or global."""
        return "uniform"

    @property
    def calibrates(self) -> bool:
        """Whether it goes over the blocks with calibration windows, on which their outliers can be counted."""
        return False

    def check_pattern(self, pattern: Pattern) -> None:
        """Raise `UserError` if it cannot make this `pattern`; the keys are those of the group sparsity."""
        counted = pattern.allocation != "owl" or self.calibrates
        wanted = f"method={self.label} counts no outliers on calibration windows; layer-wise methods with data do"
        require(counted, "allocation", pattern.allocation, wanted)

    def warmup_steps(self, steps: int) -> int:
        """The first of `steps`, over which the learning rate rises, where `training.warmup_steps` is null."""
        return 0

    @property
    def hidden_distillation(self) -> float:
        """Weight of the distance from dense hidden states where `training.hidden_distillation` is null."""
        return 0.0

    def state_bytes(self, precision: Precision) -> float:
        """Bytes a prunable weight that it keeps in this `precision` beside weights, moments and gradients."""
        return 1.0 if self.prunes else 0.0  # the mask

    def check(self, training: Training) -> None:  # noqa: B027 (most methods have nothing to check)
        """Raise `UserError` if the method cannot run with this `training`."""

    def check_model(self, model: nn.Module) -> None:
        """Raise `UserError` if it cannot prune a `model` like this one, whose weights may be on the meta device."""
        if self.first is not None:
            self.first.check_model(model)

    def draws(self, training: Training) -> set[int]:
        """How many windows of text it asks for, each time that it does: they can be cut before anything is loaded.

        Args:
            training: the budget of the run.
        """
        return {training.distinct} if self.trains else set()

    @abstractmethod
    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        """Change a model in place.

        Args:
            model: in evaluation mode on its device; its prunable weights are
                `elsa.model.weights.prunable_weights(model)`.
            task: pattern, text, budget, and where metrics and state go.

        Returns:
            Facts for the record, as JSON.
        """


@dataclass(frozen=True, kw_only=True)
class Following(Method):
    """A method that goes on from what `start` has made of the model.

    Args:
        start: which is applied first.
    """

    start: Method

    @property
    def first(self) -> Method | None:
        return self.start if self.start.prunes else None

    @property
    def allocation(self) -> str:
        return self.start.allocation

    @property
    def calibrates(self) -> bool:
        return self.start.calibrates

    def check_pattern(self, pattern: Pattern) -> None:
        super().check_pattern(pattern)
        self.start.check_pattern(pattern)

    @property
    def label(self) -> str:
        return f"{self.start.label}+{super().label}"

    def draws(self, training: Training) -> set[int]:
        return super().draws(training) | self.start.draws(training)
