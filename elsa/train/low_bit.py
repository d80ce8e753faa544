"""Adam with moments of 8 bits, by torchao: blocks of 256 entries in memory order, each with a scale.

On several ranks it is the size of the whole parameter that decides whether its moments have 8 bits, so that they have
the same blocks on any number of ranks; where a rank's rows do not hold whole blocks they stay in full precision.
"""

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from elsa.distributed.sharding import is_in_equal_rows, whole

_BLOCK = 256  # entries, torchao's default
_LEAST = 4096  # entries of a parameter, torchao's rule


def is_large(parameter: nn.Parameter) -> bool:
    """Whether one process keeps the parameter's moments in 8 bits."""
    return parameter.numel() >= _LEAST and parameter.numel() % _BLOCK == 0


def fits(parameter: nn.Parameter, own: torch.Tensor) -> bool:
    """Whether its moments have 8 bits here. `own`: this rank's part of it."""
    whole_blocks = own is parameter or (is_in_equal_rows(parameter) and own.numel() % _BLOCK == 0)
    return is_large(parameter) and whole_blocks


def adam(
    parameters: list[nn.Parameter],
    in_8bit: list[bool],
    *,
    lr: float,
    betas: tuple[float, float],
    stochastic_rounding: bool,
) -> torch.optim.Optimizer:
    """torchao's Adam8bit. `in_8bit`: of each parameter, whether they are. `stochastic_rounding`: of bf16 weights."""
    from torchao.optim import Adam8bit  # an optional extra, and slow to import

    chosen = {id(parameter) for parameter, wanted in zip(parameters, in_8bit, strict=True) if wanted}

    class Adam(Adam8bit):  # type: ignore[misc] # has no types
        def _new_buffer(self, p: torch.Tensor, signed: bool) -> torch.Tensor:
            """By the size of the whole parameter, where torchao's own goes by that of a rank's part."""
            if id(p) not in chosen:
                return torch.zeros_like(p)
            return cast(torch.Tensor, self._subclass_zeros(p, signed, self.block_size))

    warnings.filterwarnings("ignore", "OptimState8bit does not implement")  # a cache that it could use and does not
    return cast(torch.optim.Optimizer, Adam(parameters, lr=lr, betas=betas, bf16_stochastic_round=stochastic_rounding))


def is_8bit(moment: object) -> bool:
    """Whether it is torchao's state: codes, a scale a block, and the table of code values."""
    return hasattr(moment, "codes")


def read(moment: torch.Tensor) -> torch.Tensor:
    """The numbers."""
    return cast(Any, moment).dequantize() if is_8bit(moment) else moment


def nbytes(moment: Any) -> int:
    """Bytes that are really held."""
    parts: list[torch.Tensor] = [moment.codes, moment.scale, moment.qmap] if is_8bit(moment) else [moment]
    return sum(part.nbytes for part in parts)


def taken_apart(moment: Any, spread: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """A rank's moment for a checkpoint: its parts as those of the whole."""
    return {"codes": spread(moment.codes), "scale": spread(moment.scale), "signed": moment.signed}


def put_together(saved: Any, own: torch.Tensor, cut: Callable[[torch.Tensor], torch.Tensor], *, as_8bit: bool) -> Any:
    """A rank's moment from that of the whole: torchao's own of one process, or what `taken_apart` gave.

    `own`: this rank's part of the parameter; `cut`: gives that of a tensor of the whole.
    """
    from torchao.optim.subclass_8bit import OptimState8bit

    parts = saved if isinstance(saved, dict) else {"codes": saved.codes, "scale": saved.scale, "signed": saved.signed}
    codes, scale = parts["codes"], parts["scale"]
    if as_8bit:
        moment = OptimState8bit.zeros(own.shape, parts["signed"], _BLOCK, own.device, own.dtype)
        moment.codes.copy_(cut(codes))
        moment.scale.copy_(cut(scale))
        return moment
    table = OptimState8bit.zeros((_BLOCK,), parts["signed"], _BLOCK, codes.device).qmap
    return cut(OptimState8bit(whole(codes), whole(scale), table, parts["signed"]).dequantize()).to(own.dtype)
