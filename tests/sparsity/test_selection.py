import numpy as np
import pytest
import torch

from elsa.sparsity.selection import keep_largest, keep_largest_of_each_row


def brute_force(scores, keep):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i in order[:keep] for i in range(len(scores))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("keep", [0, 1, 7, 29, 30])
def test_keep_largest_is_brute_force_with_ties(dtype, keep):
    random = np.random.default_rng(keep)
    score = torch.tensor(random.integers(0, 6, 30), dtype=dtype).view(5, 6)  # six values: ties everywhere
    mask = keep_largest(score, keep)
    assert mask.flatten().tolist() == brute_force(score.flatten().tolist(), keep)


def test_keep_largest_breaks_ties_in_logical_order_whatever_the_strides():
    score = torch.ones(4, 6)
    assert torch.equal(keep_largest(score, 9), keep_largest(score.t().contiguous().t(), 9))


@pytest.mark.parametrize("width", [4, 8, 16, 17, 40])
def test_keep_largest_of_each_row_is_brute_force_with_ties(width):
    random = np.random.default_rng(width)
    score = torch.tensor(random.integers(0, 5, (6, width)), dtype=torch.float32)
    mask = keep_largest_of_each_row(score, width // 2)
    assert mask.tolist() == [brute_force(row, width // 2) for row in score.tolist()]


@pytest.mark.parametrize("select", [keep_largest, keep_largest_of_each_row])
def test_nan_is_refused(select):
    with pytest.raises(ValueError, match="NaN"):
        select(torch.tensor([[1.0, float("nan")]]), 1)
