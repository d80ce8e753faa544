"""Triton kernels for a few tokens: a matrix held as a bit mask, or with 16 bits a value for its column.

Bytes bound them: a bit an entry beside the values, or 16 bits a value, which are fewer below one value in 16.

Shapes: O outputs, I inputs, T tokens, N values, C words of 32 columns.
"""

import importlib.util
import os
from functools import cache
from typing import Any

import torch

_WORDS = 16  # that a program of the bit mask reads at a time: 512 columns
_VALUES = 128  # that one of 16-bit columns reads at a time


def interpreted() -> bool:
    """Whether Triton's kernels run as Python, on a CPU: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs_on(device: torch.device) -> bool:
    """Whether there is Triton for it."""
    there = importlib.util.find_spec("triton") is not None
    return there and (device.type == "cuda" or (device.type == "cpu" and interpreted()))


@cache
def _kernels() -> tuple[Any, Any]:
    """Made when they are first wanted: Triton is no dependency, but comes with torch for CUDA."""
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def bits_row(places, rows, values, x, y, outputs, inputs, words, tokens, T: tl.constexpr, W: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0)
        word, bit, token = tl.arange(0, W), tl.arange(0, 32), tl.arange(0, T)
        start = tl.load(rows + row)
        total = tl.zeros([T], dtype=tl.float32)
        for begin in range(0, words, W):
            mask = tl.load(places + row * words + begin + word, mask=begin + word < words, other=0)
            kept = (mask[:, None] >> bit[None, :]) & 1
            counts = tl.sum(kept, axis=1)
            before = tl.cumsum(counts, axis=0) - counts  # values in the words before, and in the word before the bit
            place = start + before[:, None] + tl.cumsum(kept, axis=1) - kept
            value = tl.load(values + place, mask=kept == 1, other=0.0).to(tl.float32)
            column = (begin + word[:, None]) * 32 + bit[None, :]
            inside = (token[:, None, None] < tokens) & (column < inputs)[None, :, :]
            its = tl.load(x + token[:, None, None] * inputs + column[None, :, :], mask=inside, other=0.0).to(tl.float32)
            total += tl.sum(tl.sum(its * value[None, :, :], axis=2), axis=1)
            start += tl.sum(counts, axis=0)
        tl.store(y + token * outputs + row, total.to(y.dtype.element_ty), mask=token < tokens)

    @triton.jit  # type: ignore[untyped-decorator]
    def csr16_row(places, rows, values, x, y, outputs, inputs, tokens, T: tl.constexpr, V: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0)
        number, token = tl.arange(0, V), tl.arange(0, T)
        first, end = tl.load(rows + row), tl.load(rows + row + 1)
        total = tl.zeros([T], dtype=tl.float32)
        for begin in range(first, end, V):
            inside = begin + number < end
            column = tl.load(places + begin + number, mask=inside, other=0).to(tl.int32) & 0xFFFF
            value = tl.load(values + begin + number, mask=inside, other=0.0).to(tl.float32)
            wanted = (token[:, None] < tokens) & inside[None, :]
            its = tl.load(x + token[:, None] * inputs + column[None, :], mask=wanted, other=0.0).to(tl.float32)
            total += tl.sum(its * value[None, :], axis=1)
        tl.store(y + token * outputs + row, total.to(y.dtype.element_ty), mask=token < tokens)

    return bits_row, csr16_row


@torch.library.custom_op("elsa::gpu_product", mutates_args=())
def product(places: torch.Tensor, rows: torch.Tensor, values: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    """x Wᵀ [T, O]. `places`: int32 [O, C], or int16 [N or more]; `rows`: int32 [O + 1]; `values`: [N or more]."""
    bits_row, csr16_row = _kernels()
    x, (tokens, inputs), outputs = x_TI.contiguous(), x_TI.shape, len(rows) - 1
    y = x.new_empty(tokens, outputs)
    together = max(1, 1 << (tokens - 1).bit_length())  # a power of two, as Triton's ranges are
    if places.dim() == 2:
        words = places.shape[1]
        bits_row[(outputs,)](places, rows, values, x, y, outputs, inputs, words, tokens, T=together, W=_WORDS)
    else:
        csr16_row[(outputs,)](places, rows, values, x, y, outputs, inputs, tokens, T=together, V=_VALUES)
    return y


@product.register_fake
def _(places: torch.Tensor, rows: torch.Tensor, values: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    return x_TI.new_empty(x_TI.shape[0], rows.shape[0] - 1)
