"""Exchanges against brute force, and that no row gets worse."""

import itertools

import pytest
import torch

from elsa.errors import UserError
from elsa.method.alps import Alps
from elsa.method.elsa import Elsa
from elsa.method.magnitude import Magnitude
from elsa.method.sparsegpt import SparseGPT
from elsa.method.swaps import Swaps, row_errors, swap
from elsa.method.wanda import Wanda
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model
from tests.method.test_contract import PATTERNS, task

HALF = Pattern(pattern="unstructured", ratio=0.5)
STARTS = {"magnitude": Magnitude(), "wanda": Wanda(), "sparsegpt": SparseGPT(), "alps": Alps()}


def layer(outputs=6, inputs=8, tokens=40):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(inputs, inputs, generator=generator)
    activations = torch.randn(tokens, inputs, generator=generator) @ mixing
    return torch.randn(outputs, inputs, generator=generator), activations


def started(start, weight, activations, pattern):
    pruner = STARTS[start]
    statistics = None
    if pruner.needs_inputs:
        statistics = pruner.init_statistics(weight)
        pruner.update_statistics(statistics, activations)
        statistics = pruner.prepare(statistics)
    return pruner.prune(weight.clone(), statistics, pattern)


def error(weight, sparse, activations):
    return (activations.double() @ (weight - sparse).double().t()).square().sum(0)


def brute(weight, sparse, activations, group, refit):
    """One row: try every exchange by a whole product of the layer, take the best, as long as one helps."""
    sparse, count = sparse.clone(), 0
    while True:
        now = float(error(weight, sparse, activations))
        tried = []
        for p, q in itertools.product(range(len(sparse[0])), repeat=2):
            if sparse[0, p] == 0 or sparse[0, q] != 0 or (group and p // group != q // group):
                continue
            other = sparse.clone()
            other[0, p] = 0
            other[0, q] = weight[0, q]
            if refit:
                column = activations[:, q].double()
                rest = activations.double() @ (weight - other).double()[0] + column * float(other[0, q])
                other[0, q] = float(column @ rest / (column @ column))
            tried.append((float(error(weight, other, activations)), other))
        best = min(tried, key=lambda each: each[0], default=(now, sparse))
        if not best[0] < now * (1 - 1e-6):
            return sparse, count
        sparse, count = best[1], count + 1


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("pattern", [HALF, PATTERNS["2:4"]], ids=["50 %", "2:4"])
@pytest.mark.parametrize("start", STARTS)
def test_every_row_makes_the_exchanges_of_brute_force(start, pattern, refit):
    weight, activations = layer()
    sparse = started(start, weight, activations, pattern)
    method = Swaps(refit=refit, candidates=None)
    found, count = swap(sparse, weight, activations.t() @ activations, pattern.group, method)
    expected = [
        brute(weight[i : i + 1], sparse[i : i + 1], activations, pattern.group, refit) for i in range(len(weight))
    ]
    torch.testing.assert_close(found, torch.cat([row for row, _ in expected]), rtol=1e-3, atol=1e-4)
    assert count == sum(each for _, each in expected)
    assert start == "alps" or count > 0


@pytest.mark.parametrize("pattern", [HALF, Pattern(pattern="unstructured", ratio=0.9), PATTERNS["2:4"]])
@pytest.mark.parametrize("start", STARTS)
def test_no_row_gets_worse_and_each_keeps_as_many(start, pattern):
    weight, activations = layer(32, 64, 100)
    sparse = started(start, weight, activations, pattern)
    found, _ = swap(sparse, weight, activations.t() @ activations, pattern.group, Swaps())
    assert (error(weight, found, activations) <= error(weight, sparse, activations) * (1 + 1e-12)).all()
    assert torch.equal((found != 0).sum(1), (sparse != 0).sum(1))
    if pattern.group:
        assert ((found.view(-1, 4) != 0).sum(1) == 2).all()
    if start != "alps":
        assert error(weight, found, activations).sum() < 0.95 * error(weight, sparse, activations).sum()


def test_few_candidates_find_nearly_what_all_do():
    weight, activations = layer(32, 64, 100)
    sparse = started("wanda", weight, activations, HALF)
    gram = activations.t() @ activations
    few, every = (swap(sparse, weight, gram, None, Swaps(candidates=count))[0] for count in (8, None))
    assert error(weight, few, activations).sum() < 1.1 * error(weight, every, activations).sum()


def test_row_errors_are_those_of_the_outputs():
    weight, activations = layer()
    found = row_errors(weight, activations.t() @ activations)
    torch.testing.assert_close(found, error(weight, torch.zeros_like(weight), activations), rtol=1e-5, atol=0)


def test_an_input_that_was_never_active_gives_its_place():
    weight, activations = layer()
    activations[:, 0] = 0
    sparse = torch.where(torch.arange(8) < 4, weight, 0)
    found, _ = swap(sparse, weight, activations.t() @ activations, None, Swaps())
    assert (found[:, 0] == 0).all()
    assert ((found != 0).sum(1) == 4).all()
    assert found.isfinite().all()


def test_at_most_as_many_exchanges_a_row_as_are_asked_for():
    weight, activations = layer(32, 64, 100)
    sparse = started("magnitude", weight, activations, HALF)
    found, count = swap(sparse, weight, activations.t() @ activations, None, Swaps(most=1))
    changed = ((found != 0) != (sparse != 0)).sum(1)
    assert changed.max() == 2
    assert count == (changed == 2).sum()


def test_a_models_layers_get_nearer_to_their_outputs_and_the_record_says_so(windows):
    model, before = random_model("llama"), random_model("llama")
    given, _ = task(windows, PATTERNS["70 %"])
    Wanda(calibration_windows=8).apply(before, given)
    facts = Swaps(start=Wanda(calibration_windows=8), calibration_windows=8).apply(model, given)
    assert facts["layer_error"]["after"] < 0.97 * facts["layer_error"]["before"]
    assert facts["exchanges"] > 0
    for (name, one), other in zip(prunable_weights(model).items(), prunable_weights(before).values(), strict=True):
        assert torch.equal((one.value_OI != 0).sum(1), (other.value_OI != 0).sum(1)), name


def test_a_method_that_trains_has_no_dense_goal():
    with pytest.raises(UserError, match="start=elsa: a method that prunes in one shot"):
        Swaps(start=Elsa())
