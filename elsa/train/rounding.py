"""Rounding of weights to what they are kept in."""

import torch


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """fp32 `values` in `dtype`; in bf16 stochastically, so that changes below its resolution add up in the mean."""
    if dtype != torch.bfloat16:
        return values.to(dtype)
    noise = torch.randint(1 << 16, values.shape, dtype=torch.int32, device=values.device)
    return (values.view(torch.int32) + noise).bitwise_and_(-1 << 16).view(torch.float32).to(dtype)
