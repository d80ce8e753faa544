"""The optimiser of a run: one for all parameters, or one for each where gradients are released during backward.

Where parameters are spread over ranks it steps this rank's rows as tensors of their own; moments are put together for a
checkpoint, and cut again for any number of ranks.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from elsa.distributed.sharding import local, rows_as, spread_like
from elsa.errors import UserError
from elsa.train import low_bit
from elsa.train.budget import Training
from elsa.train.precision import Precision

_EPSILON = 1e-8  # what Adam adds to √v, PyTorch's default
_log = logging.getLogger(__name__)


class Optimizer:
    """Steps all parameters or a single one, at one learning rate, without weight decay. Parameters go by their name.

    Args:
        parameters: by name, each once.
        training: which optimiser, and its rate and decays.
        precision: dtype of the moments, and whether each parameter is stepped inside the backward pass.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], training: Training, precision: Precision):
        self.parameters = dict(parameters)
        self._own = {name: _own(parameter) for name, parameter in parameters.items()}
        self._apart = {name for name, own in self._own.items() if own is not parameters[name]}
        self._precision = precision
        groups = [[name] for name in parameters] if precision.gradient_release else [list(parameters)]
        self._names = groups
        self._optimizers = [self._make(group, training, precision) for group in groups]
        self._of = {name: its for group, its in zip(groups, self._optimizers, strict=True) for name in group}
        self._stance = _stance(precision, self.device)
        if precision.moments == "8bit" and self._stance == "default":
            _log.info("8-bit Adam compiles its update in the first step: some seconds for every shape of weight")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
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
        apart = self._apart if name is None else self._apart & {name}
        for each in apart:
            self._hand_over(each)
        for optimizer in self._optimizers if name is None else [self._of[name]]:
            with nullcontext() if self._stance == "default" else torch.compiler.set_stance(self._stance):
                optimizer.step()
            optimizer.zero_grad()
        for each in apart:
            self.parameters[each].grad = None

    def _hand_over(self, name: str) -> None:
        """Give this rank's rows of a parameter, which FSDP may have moved, and of its gradient to what steps them."""
        parameter, own = self.parameters[name], self._own[name]
        own.data = local(parameter.detach())
        own.grad = None if parameter.grad is None else local(parameter.grad)

    def second_moment(self, name: str) -> torch.Tensor:
        """Adam's running mean of this rank's squared gradients of a parameter `name`, fp32, in its shape."""
        return low_bit.read(self._moments(name)["exp_avg_sq"]).float()

    def preconditioner(self, name: str) -> torch.Tensor | None:
        """√v of the parameter `name`, by which Adam divides its steps, fp32.

        None for an optimiser that does not, and before the first step.
        """
        if "exp_avg_sq" not in self._moments(name):
            return None
        return self.second_moment(name).sqrt().clamp_min(_EPSILON)

    def _moments(self, name: str) -> dict[str, torch.Tensor]:
        moments: dict[str, torch.Tensor] = self._of[name].state[self._own[name]]
        return moments

    @property
    def nbytes(self) -> int:
        """Bytes of all moments that are really held."""
        states = (state for optimizer in self._optimizers for state in optimizer.state.values())
        return sum(low_bit.nbytes(tensor) for state in states for key, tensor in state.items() if key != "step")

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [
            self._with_moments(names, optimizer.state_dict(), self._spread)
            for names, optimizer in zip(self._names, self._optimizers, strict=True)
        ]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Take over what `state` gave, of any number of ranks."""
        for names, optimizer, state in zip(self._names, self._optimizers, states, strict=True):
            optimizer.load_state_dict(self._with_moments(names, state, self._cut))

    def _with_moments(
        self, names: list[str], state: dict[str, Any], change: Callable[[str, str, Any], Any]
    ) -> dict[str, Any]:
        """An optimiser's state with its moments changed, and its counts of steps as they are."""
        moments = {
            number: {key: value if key == "step" else change(names[number], key, value) for key, value in its.items()}
            for number, its in state["state"].items()
        }
        return state | {"state": moments}

    def _spread(self, name: str, key: str, moment: torch.Tensor) -> Any:
        parameter = self.parameters[name]
        if name not in self._apart or moment is None:
            return moment
        spread = partial(spread_like, parameter=parameter)
        return low_bit.taken_apart(moment, spread) if low_bit.is_8bit(moment) else spread(moment)

    def _cut(self, name: str, key: str, saved: Any) -> Any:
        """This rank's part of a moment, in the form that it is kept in on this number of ranks."""
        parameter, own = self.parameters[name], self._own[name]
        if saved is None or (name not in self._apart and isinstance(saved, torch.Tensor)):
            return saved
        cut = partial(rows_as, parameter=parameter)
        if not isinstance(saved, dict) and not low_bit.is_8bit(saved):
            return cut(saved)
        return low_bit.put_together(saved, own, cut, as_8bit=self._in_8bit(name))

    def _in_8bit(self, name: str) -> bool:
        return self._precision.moments == "8bit" and low_bit.fits(self.parameters[name], self._own[name])

    def _make(self, names: list[str], training: Training, precision: Precision) -> torch.optim.Optimizer:
        parameters = [self._own[name] for name in names]
        if training.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.beta1)
        betas = (training.beta1, training.beta2)
        if precision.moments == "float32":
            return torch.optim.Adam(parameters, lr=training.learning_rate, betas=betas, fused=True)
        changed = [n for n in names if low_bit.is_large(self.parameters[n]) and not self._in_8bit(n)]
        if changed and training.fixed_order:
            raise UserError(
                f"precision.moments=8bit: this many ranks cut blocks of {changed[0]}, and training.fixed_order=true "
                "could not keep its promise; set float32, or fewer devices"
            )
        return low_bit.adam(
            parameters, [self._in_8bit(name) for name in names],
            lr=training.learning_rate, betas=betas, stochastic_rounding=precision.weights == "bfloat16",
        )  # fmt: skip


def _own(parameter: nn.Parameter) -> nn.Parameter:
    """This rank's rows as a parameter of their own; the parameter itself where it is whole."""
    rows = local(parameter.detach())
    return parameter if local(parameter) is parameter else nn.Parameter(rows)


def _stance(precision: Precision, device: torch.device) -> str:
    """torchao compiles its update; on a CPU without a C++ compiler it runs uncompiled instead."""
    compiles = device.type != "cpu" or shutil.which("g++") or shutil.which("clang++")
    return "default" if compiles or precision.moments != "8bit" else "force_eager"
