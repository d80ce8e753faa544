"""The optimiser of a run: one for all parameters, or one for each where gradients are released during backward."""

import shutil
import warnings
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import nn

from elsa.admm.precision import Precision
from elsa.admm.training import Training

_EPSILON = 1e-8  # what Adam adds to √v, PyTorch's default


class Stepper:
    """Steps all parameters or a single one, at one learning rate, without weight decay."""

    def __init__(self, parameters: Iterable[nn.Parameter], training: Training, precision: Precision):
        self.parameters = list(parameters)
        each = precision.gradient_release
        groups = [[parameter] for parameter in self.parameters] if each else [self.parameters]
        self._optimizers = [_make(group, training, precision) for group in groups]
        self._of = {p: o for group, o in zip(groups, self._optimizers, strict=True) for p in group}
        self._stance = _stance(precision, self.parameters[0].device)
        if precision.moments == "8bit" and self._stance == "default":
            print(
                "8-bit Adam compiles its update in the first step: some seconds for every shape of weight", flush=True
            )

    def set_rate(self, rate: float) -> None:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def step(self, parameter: nn.Parameter | None = None) -> None:
        """Update all parameters, or the given one, and free the gradients."""
        for optimizer in self._optimizers if parameter is None else [self._of[parameter]]:
            with nullcontext() if self._stance == "default" else torch.compiler.set_stance(self._stance):
                optimizer.step()
            optimizer.zero_grad()

    def second_moment(self, parameter: nn.Parameter) -> torch.Tensor:
        """Adam's running mean of squared gradients, fp32 (or the kept tensor itself if that is fp32)."""
        moment = self._of[parameter].state[parameter]["exp_avg_sq"]
        return (moment.dequantize() if _is_8bit(moment) else moment).float()

    def preconditioner(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """√v, by which Adam divides its steps, fp32; None for an optimiser that does not, and before the first step."""
        if "exp_avg_sq" not in self._of[parameter].state[parameter]:
            return None
        return self.second_moment(parameter).sqrt().clamp_min(_EPSILON)

    @property
    def nbytes(self) -> int:
        """Bytes of all moments that are really held."""
        states = (state for optimizer in self._optimizers for state in optimizer.state.values())
        return sum(_nbytes(tensor) for state in states for key, tensor in state.items() if key != "step")

    def state(self) -> list[dict]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def restore(self, states: list[dict]) -> None:
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _make(parameters: list[nn.Parameter], training: Training, precision: Precision) -> torch.optim.Optimizer:
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.beta1)
    betas = (training.beta1, training.beta2)
    if precision.moments == "float32":
        return torch.optim.Adam(parameters, lr=training.learning_rate, betas=betas, fused=True)
    from torchao.optim import Adam8bit  # an optional extra, and slow to import

    warnings.filterwarnings("ignore", "OptimState8bit does not implement")  # a cache that it could use and does not
    rounding = precision.weights == "bfloat16"
    return Adam8bit(parameters, lr=training.learning_rate, betas=betas, bf16_stochastic_round=rounding)


def _stance(precision: Precision, device: torch.device) -> str:
    """torchao compiles its update; on a CPU without a C++ compiler it runs uncompiled instead."""
    compiles = device.type != "cpu" or shutil.which("g++") or shutil.which("clang++")
    return "default" if compiles or precision.moments != "8bit" else "force_eager"


def _is_8bit(tensor: torch.Tensor) -> bool:
    """Whether it is torchao's state: codes, a scale per block, and the table of code values."""
    return hasattr(tensor, "codes")


def _nbytes(tensor: torch.Tensor) -> int:
    if _is_8bit(tensor):
        return tensor.codes.nbytes + tensor.scale.nbytes + tensor.qmap.nbytes
    return tensor.nbytes
