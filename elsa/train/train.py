"""The one place that trains: a model, a constraint on its weights, a budget."""

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from elsa.distributed.sharding import Spread, local, spread_blocks
from elsa.model.weights import beside_text, decoder_blocks, prunable_weights
from elsa.train.constraint import Constraint
from elsa.train.loop import Loop
from elsa.train.optimizer import Optimizer
from elsa.train.task import TrainingTask

_log = logging.getLogger(__name__)

Constrain = Callable[[Optimizer], Constraint]  # makes the constraint once the model has its dtype and its optimiser


def train(
    model: nn.Module,
    constrain: Constrain,
    task: TrainingTask,
    *,
    teacher: nn.Module | None = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train all parameters of a model in place on the task's windows.

    On several ranks the model is spread over them, and stays so (`elsa.distributed.sharding`).

    Args:
        model: that is trained.
        constrain: makes the constraint once the model has its dtype and its optimiser.
        task: budget, text, precision, and where metrics and state go.
        teacher: from `teacher_of`, made before anything changed the model.
        facts: what came before the training; a run that goes on from a checkpoint has those of its first part.

    Returns:
        Facts for the record.
    """
    windows_NL = task.training.windows(task.windows)
    with task.precision.applied(model):
        row_dims = {weight.parameter_name: weight.row_dim for weight in prunable_weights(model).values()}
        spread = None if task.ranks.size == 1 else _spread(model, row_dims, task)
        optimizer = Optimizer(trainable(model), task.training, task.precision)
        constraint = constrain(optimizer)
        _warn_of_emulation(optimizer.device, task)
        if teacher is not None:
            _place(teacher, optimizer.device, task)
        loop = Loop(
            model, optimizer, constraint, task, teacher, facts, None if spread is None else spread.call, row_dims
        )
        loop.run(windows_NL)
    found = constraint.finish()
    held = found.get("bytes", {}) | state_bytes(model, optimizer)
    return loop.facts | found | {"training_tokens": windows_NL.numel(), "bytes": held}


def _warn_of_emulation(device: torch.device, task: TrainingTask) -> None:
    if device.type == "cpu" and task.training.autocast == "bfloat16" and not computes_bf16():
        _log.warning(
            "training.autocast=bfloat16: this processor has no bf16 arithmetic, and emulates it some ten times slower "
            "than training.autocast=none, which computes in fp32"
        )


def computes_bf16() -> bool:
    """Whether PyTorch has bf16 kernels for this CPU's matrix products."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _spread(model: nn.Module, row_dims: Mapping[str, int], task: TrainingTask) -> Spread:
    blocks, fixed = decoder_blocks(model), task.training.fixed_order
    elsewhere = {name: dim for name, dim in row_dims.items() if dim}
    return Spread(model, blocks, elsewhere, task.ranks, fixed_order=fixed)


def _place(teacher: nn.Module, device: torch.device, task: TrainingTask) -> None:
    """Bring it to the device, its blocks spread over the ranks if there are several."""
    if task.ranks.size > 1:
        spread_blocks(decoder_blocks(teacher), task.ranks)
    teacher.to(device)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters that get a gradient from text by name, each once."""
    apart = beside_text(model)
    return {name: each for name, each in model.named_parameters() if each.requires_grad and id(each) not in apart}


def state_bytes(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Bytes a parameter that weights and moments really hold on this rank."""
    held = [local(parameter) for parameter in model.parameters()]
    numel, weights = sum(each.numel() for each in held), sum(each.nbytes for each in held)
    return {"weights_per_parameter": weights / numel, "moments_per_parameter": optimizer.nbytes / numel}


def teacher_of(model: nn.Module, task: TrainingTask) -> nn.Module | None:
    """A frozen copy of the dense `model` in the precision of `task`, if training is to distil from it.

    It waits in CPU memory: what prunes the model before the training needs the device.
    """
    if not task.training.distils:
        return None
    teacher = copy.deepcopy(model)
    task.precision.cast(teacher)
    return teacher.cpu().eval().requires_grad_(False)
