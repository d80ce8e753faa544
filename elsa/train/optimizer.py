"""The optimiser of a run: one for all parameters, or one for each where gradients are released during backward."""

import logging
import shutil
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from elsa.distributed.sharding import local, spread_as
from elsa.train.budget import Training
from elsa.train.precision import Precision

_EPSILON = 1e-8  # what Adam adds to √v, PyTorch's default
_log = logging.getLogger(__name__)


class Optimizer:
    """Steps all parameters or a single one, at one learning rate, without weight decay. Parameters go by their name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], training: Training, precision: Precision):
        self.parameters = dict(parameters)
        groups = [[name] for name in parameters] if precision.gradient_release else [list(parameters)]
        self._optimizers = [_make([parameters[name] for name in group], training, precision) for group in groups]
        self._of = {name: its for group, its in zip(groups, self._optimizers, strict=True) for name in group}
        self._stance = _stance(precision, self.device)
        if precision.moments == "8bit" and self._stance == "default":
            _log.info("8-bit Adam compiles its update in the first step: some seconds for every shape of weight")

    @property
    def device(self) -> torch.device:
        return local(next(iter(self.parameters.values()))).device

    def set_rate(self, rate: float) -> None:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def step(self, name: str | None = None) -> None:
        """Update all parameters, or the given one, and free the gradients."""
        for optimizer in self._optimizers if name is None else [self._of[name]]:
            with nullcontext() if self._stance == "default" else torch.compiler.set_stance(self._stance):
                optimizer.step()
            optimizer.zero_grad()

    def second_moment(self, name: str) -> torch.Tensor:
        """Adam's running mean of this rank's squared gradients, fp32 (or the kept tensor itself if that is fp32)."""
        moment = local(self._moments(name)["exp_avg_sq"])
        return (moment.dequantize() if _is_8bit(moment) else moment).float()

    def preconditioner(self, name: str) -> torch.Tensor | None:
        """√v, by which Adam divides its steps, fp32; None for an optimiser that does not, and before the first step."""
        if "exp_avg_sq" not in self._moments(name):
            return None
        return self.second_moment(name).sqrt().clamp_min(_EPSILON)

    def _moments(self, name: str) -> dict[str, torch.Tensor]:
        moments: dict[str, torch.Tensor] = self._of[name].state[self.parameters[name]]
        return moments

    @property
    def nbytes(self) -> int:
        """Bytes of all moments that are really held."""
        states = (state for optimizer in self._optimizers for state in optimizer.state.values())
        return sum(_nbytes(tensor) for state in states for key, tensor in state.items() if key != "step")

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def restore(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._optimizers, states, strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            moments = {
                number: {key: _spread_as(value, parameters[number]) for key, value in its.items()}
                for number, its in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": moments})


def _spread_as(value: Any, parameter: torch.Tensor) -> Any:
    """A moment that was saved by any number of ranks, as this many hold it; what is none of the kind as it is."""
    alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return spread_as(value, parameter) if alike else value


def _make(parameters: list[nn.Parameter], training: Training, precision: Precision) -> torch.optim.Optimizer:
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.beta1)
    betas = (training.beta1, training.beta2)
    if precision.moments == "float32":
        return torch.optim.Adam(parameters, lr=training.learning_rate, betas=betas, fused=True)
    from torchao.optim import Adam8bit  # an optional extra, and slow to import

    warnings.filterwarnings("ignore", "OptimState8bit does not implement")  # a cache that it could use and does not
    rounding = precision.weights == "bfloat16"
    optimizer: torch.optim.Optimizer = Adam8bit(
        parameters, lr=training.learning_rate, betas=betas, bf16_stochastic_round=rounding
    )
    return optimizer


def _stance(precision: Precision, device: torch.device) -> str:
    """torchao compiles its update; on a CPU without a C++ compiler it runs uncompiled instead."""
    compiles = device.type != "cpu" or shutil.which("g++") or shutil.which("clang++")
    return "default" if compiles or precision.moments != "8bit" else "force_eager"


def _is_8bit(tensor: torch.Tensor) -> bool:
    """Whether it is torchao's state: codes, a scale per block, and the table of code values."""
    return hasattr(tensor, "codes")


def _nbytes(tensor: Any) -> int:
    tensor = local(tensor)
    parts: list[torch.Tensor] = [tensor.codes, tensor.scale, tensor.qmap] if _is_8bit(tensor) else [tensor]
    return sum(part.nbytes for part in parts)
