"""Where the bytes of a training run go: dtypes of weights, moments and state, and what trades time for memory."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from elsa.errors import UserError, require
from elsa.model.weights import text_part
from elsa.train.budget import Training

FORMATS = ("float32", "bfloat16", "float8")  # in which a constraint can keep its state


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Dtypes of weights, moments and state, and what trades time for memory.

    Args:
        weights: float32, or bfloat16 with stochastic rounding.
        moments: Adam's: float32, or 8bit (torchao's).
        state: of the constraint: z − u as one tensor in float32, bfloat16 or float8, and a mask bit.
        dual: null, or the dtype of u if z and u are to be two tensors as in the paper (Elsa-L: float8 and bfloat16).
        gradient_release: each parameter is updated inside the backward pass and its gradient freed; the clipping factor
            is then that of the step before.
        activation_checkpointing: blocks are computed again in the backward pass.
        loss_chunk: tokens whose logits exist at once; null for all.

    Raises:
        UserError: for what does not go together.
    """

    weights: str = "float32"
    moments: str = "float32"
    state: str = "float32"
    dual: str | None = None
    gradient_release: bool = False
    activation_checkpointing: bool = False
    loss_chunk: int | None = 2048

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, ("float32", "bfloat16"))
        _one_of("moments", self.moments, ("float32", "8bit"))
        _one_of("state", self.state, FORMATS)
        _one_of("dual", self.dual, (None, *FORMATS))
        rounded = self.weights == "float32" or self.moments == "8bit"
        require(
            rounded, "weights", self.weights, "stochastic rounding comes with 8-bit Adam; set precision.moments=8bit"
        )
        require(self.loss_chunk is None or self.loss_chunk >= 1, "loss_chunk", self.loss_chunk, "at least 1, or null")

    def check(self, training: Training, ranks: int = 1) -> None:
        """Raise `UserError` for what does not go with `training` on so many `ranks`, or where a library is missing."""
        if self.moments == "8bit":
            adam = training.optimizer == "adam"
            require(adam, "moments", "8bit", f"is Adam's; training.optimizer={training.optimizer}")
            if importlib.util.find_spec("torchao") is None:
                raise UserError("moments=8bit: torchao is not installed; run: pip install elsa[lowbit]")
        parts = max(1, training.accumulation // ranks)
        whole = parts == 1 or not self.gradient_release
        wanted = f"needs one part a rank and step; training.accumulation={training.accumulation} gives {parts}"
        require(whole, "gradient_release", True, wanted)
        in_order = self.weights == "float32" or not training.fixed_order
        require(in_order, "weights", self.weights, "is rounded at random; training.fixed_order=true needs float32")

    def cast(self, model: nn.Module) -> None:
        """Bring what a checkpoint holds into the weights' dtype, as loading in it does.

        What `model` computes for itself, such as rotary frequencies, stays as it is: a model whose own were rounded to
        bf16 would not be the one that its checkpoint gives.
        """
        saved = model.state_dict().keys()
        computed = {name: buffer for name, buffer in model.named_buffers() if name not in saved}
        model.to(getattr(torch, self.weights))
        for name, buffer in computed.items():
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, buffer)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, `model` is in training mode, in these dtypes (which stay), with checkpointing if that is wanted."""
        self.cast(model)
        trained = text_part(model)
        was_training = trained.training
        trained.train()
        if self.activation_checkpointing:
            _renamed(model, "enable")({"use_reentrant": False})
        try:
            yield
        finally:
            if self.activation_checkpointing:
                _renamed(model, "disable")()
            trained.train(was_training)


def _renamed(model: nn.Module, verb: str) -> Callable[..., None]:
    """Newer transformers say activation checkpointing, older ones gradient checkpointing."""
    newer = getattr(model, f"activation_checkpointing_{verb}", None)
    found: Callable[..., None] = newer or getattr(model, f"gradient_checkpointing_{verb}")
    return found


def _one_of(key: str, value: object, known: tuple[str | None, ...]) -> None:
    require(value in known, key, value, f"known: {', '.join('null' if each is None else each for each in known)}")
