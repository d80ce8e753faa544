"""What a training run is given: budget, precision, text, and where its metrics and its state go."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from elsa.distributed.ranks import ONE, Ranks
from elsa.train.budget import Training
from elsa.train.precision import Precision


class Checkpoints(Protocol):
    """Where a run's state goes from time to time."""

    def listening(self) -> AbstractContextManager[object]:
        """Inside, signals to stop are heeded at the next `due` and `save`."""

    def exist(self) -> bool:
        """Whether there is a state to go on from."""

    def latest(self) -> dict[str, Any] | None:
        """The state to go on from, None at the start of a run."""

    def due(self) -> bool:
        """Whether it is time to save."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep the state after step number `step`."""

    def kept(self) -> str:
        """Where the last state lies, in words."""


class NoCheckpoints:
    """Nothing is kept: an interrupted run starts again."""

    def listening(self) -> AbstractContextManager[object]:
        return nullcontext()

    def exist(self) -> bool:
        return False

    def latest(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def save(self, step: int, state: dict[str, Any]) -> None:
        pass

    def kept(self) -> str:
        return "no state was saved"


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What a training run is given.

    Args:
        windows: gives so many token windows of the train split, int32 [count, L], in the order that the seed draws.
        training: budget and optimiser.
        precision: dtypes of weights, moments and state.
        log: takes every report: a step, and its metrics.
        probe_every: steps between two looks at the loss of the weights and of their sparse copy on the last step's
            batch, unseen until then if no windows repeat (0: none).
        checkpoints: where training keeps its state.
        ranks: that share the work; each is given the same.
    """

    windows: Callable[[int], torch.Tensor]
    training: Training = field(default_factory=Training)
    precision: Precision = field(default_factory=Precision)
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    probe_every: int = 0
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    ranks: Ranks = ONE
