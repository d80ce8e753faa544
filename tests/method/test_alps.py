"""ALPS against its algorithm, written naively with ρ told step by step."""

import pytest
import torch

from elsa.method.alps import Alps
from elsa.sparsity.pattern import Pattern

DAMPING = 0.01


def layer():
    """A layer of 800 weights: with half of them kept, 2 swapped ones are 0.5 % and 40 are 10 %."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(40, 40, generator=generator)
    return torch.randn(20, 40, generator=generator), torch.randn(200, 40, generator=generator) @ mixing


def prune(weight, inputs, pattern, **settings):
    pruner = Alps(calibration_windows=1, damping=DAMPING, **settings)
    statistics = pruner.init_statistics(weight)
    pruner.update_statistics(statistics, inputs)
    return pruner.prune(weight.clone(), pruner.prepare(statistics), pattern)


def damped_gram(inputs):
    gram = inputs.double().t() @ inputs.double()
    return gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram))


def naive_admm(weight, inputs, mask, rhos):
    """One step for every ρ; a negative one starts again from the magnitude start with -ρ."""
    gram = damped_gram(inputs)
    scale = gram.diagonal().sqrt()
    gram = gram / scale / scale[:, None]
    target = weight.double() * scale
    start = sparse = target * mask(target.square())
    dual = torch.zeros_like(target)
    for rho in rhos:
        if rho < 0:
            sparse, dual, rho = start, torch.zeros_like(target), -rho
        right = target @ gram - dual + rho * sparse
        dense = torch.linalg.solve(gram + rho * torch.eye(len(gram)), right, left=False)
        sparse = (dense + dual / rho) * mask((dense + dual / rho).square())
        dual = dual + rho * (dense - sparse)
    return sparse / scale


class Script:
    """Stands in for a pattern that keeps half: every mask is the one before with so many pairs swapped."""

    def __init__(self, swaps):
        self.swaps, self.generator, self.kept = iter(swaps), torch.Generator().manual_seed(1), None

    def zeros(self, numel):
        return numel // 2

    def mask(self, score):
        if self.kept is None:
            order = torch.randperm(score.numel(), generator=self.generator)
            self.kept = order < score.numel() // 2
            return self.kept.view(score.shape)
        swapped = next(self.swaps)
        self.kept = self.kept.clone()
        for indices in [(~self.kept).nonzero().flatten(), self.kept.nonzero().flatten()]:
            chosen = torch.randperm(len(indices), generator=self.generator)[:swapped]
            self.kept[indices[chosen]] ^= True
        return self.kept.view(score.shape)


@pytest.mark.parametrize(
    ("swaps", "rhos"),
    [
        pytest.param([21, 30, 21, 60], [0.5, 0.65, 0.845, 1.0985], id="by 1.3 above 10 %"),
        pytest.param([20, 2, 20, 30], [0.5, 0.6, 0.72, 0.864], id="by 1.2 up to 10 %"),
        pytest.param([20, 1, 1, 30], [0.5, 0.6, 0.66, 0.726], id="by 1.1 up to 0.5 %"),
        pytest.param([0, 0, 30, 30], [0.5, -0.1, -0.02, 0.026], id="starts again while nothing moves"),
        pytest.param([1, 30, 30, 30], [0.5, -0.1, 0.13, 0.169], id="starts again if 0.5 % move at first"),
        pytest.param([30, 2, 0, 30], [0.5, 0.65, 0.78], id="ends when it stands still"),
        pytest.param([0, 30, 0, 30], [0.5, -0.1, 0.13], id="ends when it stands still after a new start"),
    ],
)
def test_rho_follows_how_many_of_the_kept_entries_change(swaps, rhos):
    weight, inputs = layer()
    settings = {"rho": rhos[0], "iterations": len(swaps), "update_interval": 1, "refine_iterations": 0}
    pruned = prune(weight, inputs, Script(swaps), **settings)
    expected = naive_admm(weight, inputs, Script(swaps).mask, rhos)
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-4)


def test_rho_grows_to_1e6_and_no_further():
    """Weights of zero grow as 1 / ρ: the others are too large for their fp32 to show it."""
    weight, inputs = layer()
    weight[:, :20] = 0
    swaps, rhos = [60] * 12, [9e5] + [1e6] * 11
    pruned = prune(weight, inputs, Script(swaps), rho=9e5, iterations=12, update_interval=1, refine_iterations=0)
    expected = naive_admm(weight, inputs, Script(swaps).mask, rhos)
    torch.testing.assert_close(pruned[:, :20].double(), expected[:, :20], rtol=1e-2, atol=1e-9)


def test_rho_grows_by_what_changed_over_an_interval():
    weight, inputs = layer()
    swaps, rhos = [0, 0, 30, 50, 0, 2, 0], [0.5, 0.5, 0.5, 0.65, 0.65, 0.65, 0.845]
    pruned = prune(weight, inputs, Script(swaps), rho=0.5, iterations=7, update_interval=3, refine_iterations=0)
    expected = naive_admm(weight, inputs, Script(swaps).mask, rhos)
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [Pattern(pattern="unstructured", ratio=0.5), Pattern(pattern="2:4", ratio=None)])
def test_every_step_keeps_the_largest_entries_of_the_primal_and_scaled_dual(pattern):
    weight, inputs = layer()
    pruned = prune(weight, inputs, pattern, rho=0.3, iterations=5, update_interval=3, refine_iterations=0)
    expected = naive_admm(weight, inputs, pattern.mask, [0.3, 0.3, 0.3, 0.39, 0.39])
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [Pattern(pattern="unstructured", ratio=0.6), Pattern(pattern="2:4", ratio=None)])
def test_each_row_solves_the_least_squares_problem_on_its_support(pattern):
    weight, inputs = layer()
    pruned = prune(weight, inputs, pattern, refine_iterations=500, refine_tolerance=1e-7)
    gram = damped_gram(inputs)
    right = weight.double() @ gram
    for row in range(len(weight)):
        support = pruned[row].nonzero().flatten()
        exact = torch.linalg.solve(gram[support][:, support], right[row, support])
        torch.testing.assert_close(pruned[row, support].double(), exact, rtol=1e-3, atol=1e-4)
