"""The step of a decoupled penalty: x moves towards z − u by a share of the distance.

On a GPU it is compiled into one pass over memory: eagerly fp8 state and bf16 weights take eight.
"""

import importlib.util
from collections.abc import Callable
from functools import cache

import torch

from elsa.admm.state import State
from elsa.train.rounding import rounded


def pull_(value_OI: torch.Tensor, state: State, share: float) -> None:
    """x ← x + share · (z − u − x), in place; rounded stochastically where x is bf16."""
    kept = state.kept()
    if kept is None or value_OI.device.type != "cuda" or not _compiles():
        pulled = torch.lerp(value_OI.float(), state.difference().float(), share)
        value_OI.copy_(rounded(pulled, value_OI.dtype))
    else:
        # a number would be a constant of the compiled code, which changes every step
        _compiled()(value_OI, *kept, torch.full((), share, device=value_OI.device))


def in_one_pass(value_OI: torch.Tensor, kept_OI: torch.Tensor, scale: torch.Tensor | None, share: torch.Tensor) -> None:
    """`pull_` towards a tensor as it is kept: `scale` of fp8 values, None of others. `share`: a scalar, fp32."""
    target = kept_OI.float() if scale is None else kept_OI.float() * scale
    value_OI.copy_(rounded(torch.lerp(value_OI.float(), target, share), value_OI.dtype))


@cache
def _compiled() -> Callable[..., None]:
    return torch.compile(in_one_pass, dynamic=False)


@cache
def _compiles() -> bool:
    """torch compiles for GPUs with Triton."""
    return importlib.util.find_spec("triton") is not None
