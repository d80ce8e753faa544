"""The pull of a decoupled penalty in one pass gives what it gives step by step."""

import pytest
import torch

from elsa.admm import pull
from elsa.admm.state import MergedState, SeparateState
from elsa.sparsity.pattern import Pattern
from tests.pretended_gpu import pretended_gpu

HALF = Pattern(pattern="unstructured", ratio=0.5)


def weight(dtype):
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", ["float32", "bfloat16", "float8"])
def test_one_pass_equals_many(dtype, kept):
    state = MergedState(weight(dtype), HALF, kept)
    found, expected = weight(dtype), weight(dtype)
    torch.manual_seed(1)
    pull.pull_(expected, state, 0.3)
    torch.manual_seed(1)
    pull.in_one_pass(found, *state.kept(), torch.tensor(0.3))
    assert torch.equal(found, expected)
    assert not torch.equal(found, weight(dtype))


def test_on_a_gpu_it_is_the_one_pass(monkeypatch):
    passes = []
    monkeypatch.setattr(pull, "_compiles", lambda: True)
    monkeypatch.setattr(pull, "_compiled", lambda: lambda *given: passes.append(given) or pull.in_one_pass(*given))
    expected = weight(torch.float32)
    pull.pull_(expected, MergedState(expected, HALF), 0.25)
    with pretended_gpu(monkeypatch) as device:
        value = weight(torch.float32).to(device)
        pull.pull_(value, MergedState(value, HALF), 0.25)
        assert len(passes) == 1
        pull.pull_(value, SeparateState(value, HALF, "float8", "bfloat16"), 0.25)
        assert len(passes) == 1  # z and u of their own are read one by one
