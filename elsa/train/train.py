"""The one place that trains: a model, a constraint on its weights, a budget."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from elsa.train.constraint import Constraint
from elsa.train.loop import Loop
from elsa.train.optimizer import Optimizer
from elsa.train.task import TrainingTask

Constrain = Callable[[Optimizer], Constraint]  # makes the constraint once the model has its dtype and its optimiser


def train(
    model: nn.Module,
    constrain: Constrain,
    task: TrainingTask,
    *,
    teacher: nn.Module | None = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train all parameters of `model` in place on the task's windows; facts for the record.

    `teacher`: from `teacher_of`, made before anything changed the model. `facts`: what came before the training; a run
    that goes on from a checkpoint has those of its first part.
    """
    windows_NL = task.training.windows(task.windows)
    with task.precision.applied(model):
        optimizer = Optimizer(trainable(model), task.training, task.precision)
        constraint = constrain(optimizer)
        if teacher is not None:
            teacher.to(optimizer.device)
        loop = Loop(model, optimizer, constraint, task, teacher, facts)
        loop.run(windows_NL)
    found = constraint.finish()
    held = found.get("bytes", {}) | state_bytes(model, optimizer)
    return loop.facts | found | {"training_tokens": windows_NL.numel(), "bytes": held}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters that get a gradient by name, each once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def state_bytes(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Bytes a parameter that weights and moments really hold."""
    numel = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return {"weights_per_parameter": weights / numel, "moments_per_parameter": optimizer.nbytes / numel}


def teacher_of(model: nn.Module, task: TrainingTask) -> nn.Module | None:
    """A frozen copy of the dense model in the run's precision, if training is to distil from it.

    It waits in CPU memory: what prunes the model before the training needs the device.
    """
    if not task.training.distillation:
        return None
    teacher = copy.deepcopy(model)
    task.precision.cast(teacher)
    return teacher.cpu().eval().requires_grad_(False)
