"""Triton's kernels as Python on the CPU, in a process of their own: the switch is read when Triton is imported."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

PROGRAM = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from elsa.export.forms import GpuBits, GpuCsr16
from elsa.export.layout import Csr

torch.manual_seed(0)
shapes = [(1, 1), (3, 7), (5, 31), (4, 32), (6, 33), (2, 512), (3, 513), (2, 1100)]
for dtype, close in ((torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
    for outputs, inputs in shapes if dtype == torch.float32 else shapes[-2:]:
        for share in (0.0, 0.1, 1.0):
            weight = (torch.randn(outputs, inputs) * (torch.rand(outputs, inputs) < share)).to(dtype)
            weight[outputs // 2] = 0  # an empty row
            for form in (GpuBits(), GpuCsr16()):
                held = form.hold(Csr.of(weight), dtype)
                assert torch.equal(form.csr(held, inputs).dense(dtype), weight)
                assert torch.equal(form.dense(held, inputs, dtype, False), weight)
                for tokens in (1, 2, 3, 8) if inputs < 512 else (1, 5):
                    x = torch.randn(tokens, inputs).to(dtype)
                    for bias in (None, torch.ones(outputs, dtype=dtype)):
                        y = form.product(held, x, bias)
                        exact = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
                        assert y.dtype == dtype and y.shape == exact.shape
                        torch.testing.assert_close(y.double(), exact, rtol=close, atol=close * inputs**0.5)
wide = torch.zeros(1, 40_000)
wide[0, 39_999], wide[0, 32_768] = 1.0, 2.0
held = GpuCsr16().hold(Csr.of(wide), torch.float32)
assert GpuCsr16().product(held, torch.arange(40_000.0)[None], None).item() == 39_999 + 2 * 32_768
print("as they should be")
"""


@pytest.mark.slow
@needs_triton
def test_the_kernels_multiply_as_the_dense_matrix():
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True)
    assert found.stdout.endswith("as they should be\n"), found.stderr[-2000:]
