"""Experts on fake tensors, which have no numbers, so that nobody can say which tokens go where.

Shapes: T tokens, each of which is sent to K of E experts; H hidden states; P tokens of an expert in equal parts.
"""

import types
from math import ceil
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from elsa.model.experts import fused


def in_equal_parts(model: nn.Module) -> None:
    """Let transformers' modules of experts compute what their grouped products do, each expert on equally many tokens.

    What autograd keeps has the same size, but for rounding up to E equal parts.
    """
    for path, module in model.named_modules():
        if hasattr(getattr(module, "config", None), "_experts_implementation") and len(fused(module, path)) == 2:
            module.forward = types.MethodType(_forward, module)


def _forward(module: Any, hidden_TH: torch.Tensor, index_TK: torch.Tensor, shares_TK: torch.Tensor) -> torch.Tensor:
    first, last = (_transposed_back(module.get_parameter(each.name), each.transposed) for each in fused(module, ""))
    sent, experts = index_TK.numel(), len(first)
    with torch.autocast("cpu", enabled=False):  # as in transformers, whose grouped products are in the weights' dtype
        inputs = hidden_TH.to(first.dtype).repeat_interleave(index_TK.shape[1], 0)
        parts_EPH = F.pad(inputs, (0, 0, 0, experts * ceil(sent / experts) - sent)).view(experts, -1, inputs.shape[1])
        before = torch.bmm(parts_EPH, first)
        gated = getattr(module, "has_gate", True)  # older transformers know no others
        middle = module._apply_gate(before) if gated else module.act_fn(before)
        outputs = torch.bmm(middle, last).flatten(0, 1)[:sent] * shares_TK.reshape(-1, 1)
        return outputs.view(*index_TK.shape, -1).sum(1).to(hidden_TH.dtype)


def _transposed_back(parameter: nn.Parameter, transposed: bool) -> torch.Tensor:
    """As a product from the left takes it, [E, I, O]."""
    return parameter if transposed else parameter.transpose(1, 2)
