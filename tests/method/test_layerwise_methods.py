"""SparseGPT and Wanda against their definitions, written naively."""

import pytest
import torch

from elsa.layerwise.statistics import damped
from elsa.method.alps import conjugate_gradients
from elsa.method.sparsegpt import SparseGPT
from elsa.method.wanda import Wanda
from elsa.sparsity.pattern import Pattern
from tests.method.methods import METHODS


def layer(outputs=12, inputs=32, tokens=100):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(inputs, inputs, generator=generator)
    return torch.randn(outputs, inputs, generator=generator), torch.randn(tokens, inputs, generator=generator) @ mixing


def sparsegpt(**changes):
    return SparseGPT(**{"calibration_windows": 1, "damping": 0.01, "block_size": 8, "match_reference": False} | changes)


def prune(pruner, weight, inputs, pattern):
    statistics = pruner.init_statistics(weight)
    for part in inputs.split(30):
        pruner.update_statistics(statistics, part)
    return pruner.prune(weight.clone(), pruner.prepare(statistics), pattern)


def test_wanda_keeps_the_largest_weight_times_input_norm_of_each_row():
    weight, inputs = layer()
    pruned = prune(Wanda(calibration_windows=1), weight, inputs, Pattern(pattern="unstructured", ratio=0.5))
    score = weight.abs() * inputs.norm(dim=0)
    for row in range(12):
        kept = set(score[row].topk(16).indices.tolist())
        assert set(pruned[row].nonzero().flatten().tolist()) == kept


def test_sparsegpt_spreads_each_error_as_the_exact_inverse_says():
    """With the mask given, the update of every column is the optimal brain surgeon's (arXiv:2301.00774, Eq. 3)."""
    weight, inputs = layer(outputs=3, inputs=8)
    pattern = Pattern(pattern="unstructured", ratio=0.5)
    pruned = prune(sparsegpt(block_size=8), weight, inputs, pattern)
    gram = damped(inputs.t() @ inputs, 0.01).double()
    expected = weight.double().clone()
    for column in range(8):
        inverse = torch.linalg.inv(gram[column:, column:])  # columns on the left are settled
        error = torch.where(pruned[:, column] == 0, expected[:, column], 0) / inverse[0, 0]
        expected[:, column:] -= torch.outer(error, inverse[0])
        expected[:, column] = torch.where(pruned[:, column] == 0, 0, expected[:, column])
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [Pattern(pattern="unstructured", ratio=0.6), Pattern(pattern="2:4", ratio=None)])
def test_sparsegpt_reconstructs_better_than_wanda(pattern):
    weight, inputs = layer()

    def error(pruned):
        return float(((weight - pruned) @ inputs.t()).square().sum())

    ours = error(prune(sparsegpt(), weight, inputs, pattern))
    assert ours < 0.8 * error(prune(Wanda(calibration_windows=1), weight, inputs, pattern))


def test_an_input_that_is_never_active_is_pruned_and_harms_nothing():
    weight, inputs = layer()
    inputs[:, 5] = 0
    pruned = prune(sparsegpt(), weight, inputs, Pattern(pattern="unstructured", ratio=0.5))
    assert torch.isfinite(pruned).all()
    assert pruned[:, 5].tolist() == [0.0] * 12


def test_match_reference_prunes_one_more_a_block():
    weight, inputs = layer()
    pattern = Pattern(pattern="unstructured", ratio=0.5)
    exact = prune(sparsegpt(), weight, inputs, pattern)
    official = prune(sparsegpt(match_reference=True), weight, inputs, pattern)
    assert int((exact == 0).sum()) == 192
    assert int((official == 0).sum()) == 192 + 32 // 8


@pytest.mark.parametrize("pattern", [Pattern(pattern="unstructured", ratio=0.6), Pattern(pattern="2:4", ratio=None)])
@pytest.mark.parametrize("name", ["alps", "l_admm"])
def test_admm_reconstructs_better_than_sparsegpt(name, pattern):
    weight, inputs = layer()

    def error(pruned):
        return float(((weight - pruned) @ inputs.t()).square().sum())

    pruned = prune(METHODS[name], weight, inputs, pattern)
    assert int((pruned == 0).sum()) == pattern.zeros(weight.numel())
    assert error(pruned) < error(prune(sparsegpt(), weight, inputs, pattern))


def test_conjugate_gradients_solve_each_row_on_its_support():
    weight, inputs = layer()
    gram = damped(inputs.t() @ inputs / 100, 0.1)
    scale = gram.diagonal().sqrt()
    gram = gram / scale / scale[:, None]
    start = weight * (torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5)
    right = weight @ gram
    solved = conjugate_gradients(gram, right, start, iterations=200, tolerance=1e-7)
    for row in range(12):
        support = start[row].nonzero().flatten()
        exact = torch.linalg.solve(gram[support][:, support].double(), right[row, support].double())
        torch.testing.assert_close(solved[row, support].double(), exact, rtol=1e-3, atol=1e-4)
    assert torch.equal(solved != 0, start != 0)
