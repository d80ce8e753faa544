"""How a tensor of ADMM's state is kept: in fp32, in bf16, or in fp8 with scales. Arithmetic uses what `read` gives.

Shapes: a weight is [O, I].
"""

from dataclasses import dataclass
from typing import Any

import torch

from elsa.distributed.ranks import ONE, Ranks

_FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FP8).max


@dataclass
class Stored:
    """`values`: the kept tensor. `scale`: what fp8 values are multiplied with, [O, 1] or a scalar; None otherwise."""

    values: torch.Tensor
    scale: torch.Tensor | None

    @classmethod
    def of(cls, tensor_OI: torch.Tensor, precision: str, margin: float | None = None, ranks: Ranks = ONE) -> "Stored":
        """`precision`: one of `elsa.train.precision.FORMATS`. fp8 has one scale a row, or with `margin` one a tensor.

        A scale maps the largest magnitude to fp8's largest number, or to 1 / `margin` of it. `ranks`: that hold rows
        of the tensor.
        """
        if precision != "float8":
            return cls(tensor_OI.to(getattr(torch, precision), copy=True), None)
        largest = tensor_OI.abs().float().amax(1, keepdim=True)
        if margin is not None:
            of_all = largest.amax() if len(largest) else torch.zeros((), device=largest.device)
            largest = ranks.max_(of_all) * margin
        scale = (largest / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        return cls((tensor_OI / scale).clamp_(-_LARGEST, _LARGEST).to(_FP8), scale)

    def read(self) -> torch.Tensor:
        """The tensor, in the kept precision, or in fp32 if that is fp8."""
        return self.values if self.scale is None else self.values.float() * self.scale

    def take(self, values: torch.Tensor, scale: torch.Tensor | None) -> None:
        """Put in what `state` gave, wherever that lies; the kept tensors stay where they are."""
        self.values.copy_(values)
        if self.scale is not None:
            assert scale is not None, "fp8 has one"
            self.scale.copy_(scale)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"values": self.values, "scale": self.scale}
