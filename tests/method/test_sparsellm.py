"""SparseLLM against least squares, closed forms and a search over a grid, all written naively."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from elsa.layerwise.driver import prune_blocks
from elsa.method.sparsegpt import SparseGPT
from elsa.method.sparsellm import FeedForward, SparseLLM
from elsa.model.weights import PrunableWeight, prunable_weights, weights_by_block
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model

DENSE = Pattern(pattern="unstructured", ratio=0.0)
HALF = Pattern(pattern="unstructured", ratio=0.5)
DAMPING = 0.1


def sparsellm(**changes):
    return SparseLLM(**{"damping": DAMPING, "block_size": 8, "iterations": 1, "alpha": 2.0, "beta": 7.0} | changes)


def feed_forward(activation, gated=False, inputs=8, inner=12):
    """A feed-forward part with biases in its first layers."""
    torch.manual_seed(0)
    first = [nn.Linear(inputs, inner) for _ in range(1 + gated)]
    for layer in first:
        layer.bias.data.normal_()
    weights = [PrunableWeight(f"first{i}", layer, False) for i, layer in enumerate(first)]
    return FeedForward(weights, PrunableWeight("last", nn.Linear(inner, inputs, bias=False), False), activation)


def random(*shape, scale=1.0, seed=0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def patterns(part, pattern):
    return {weight.name: pattern for weight in (*part.first, part.last)}


def least_squares(inputs, target, pattern=DENSE):
    """The damped solution, pruned by SparseGPT."""
    gram = inputs.double().t() @ inputs.double()
    ridge = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram))
    solution = torch.linalg.solve(ridge, inputs.double().t() @ target.double()).t().float()
    pruner = SparseGPT(damping=DAMPING, block_size=8)
    return pruner.prune(solution, pruner.prepare(gram.float()), pattern)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [DENSE, HALF, Pattern(pattern="2:4", ratio=None)], ids=lambda p: p.name)
def test_a_fit_is_damped_least_squares_pruned_by_sparsegpt(pattern):
    part = feed_forward(F.relu, gated=True)
    inputs, targets = random(50, 8) @ random(8, 8, seed=1), [random(50, 12, seed=2), random(50, 12, seed=3)]
    sparsellm()._fit(part.first, inputs, inputs.t() @ inputs, targets, patterns(part, pattern))
    for weight, target in zip(part.first, targets, strict=True):
        close(weight.value_OI, least_squares(inputs, target, pattern))
        assert int((weight.value_OI == 0).sum()) == pattern.zeros(weight.numel)


@pytest.mark.parametrize("gated", [False, True])
def test_hidden_activations_solve_eq_5_as_stacked_least_squares(gated):
    part = feed_forward(F.silu, gated)
    pre, target = [random(20, 12, seed=i) for i in range(1 + gated)], random(20, 8, seed=5)
    found = sparsellm()._update_hidden(part, pre, target)
    activations = F.silu(pre[0]) * (pre[1] if gated else 1)
    stacked = torch.cat([2**0.5 * part.last.value_OI, 7**0.5 * torch.eye(12)]).double()
    wanted = torch.cat([2**0.5 * target.t(), 7**0.5 * activations.t()]).double()
    close(found, torch.linalg.lstsq(stacked, wanted).solution.t())


def updated(method, part, pre, wanted, hidden):
    found = [z.clone() for z in pre]
    with torch.no_grad():
        method._update_pre_activations(part, found, wanted, hidden)
    return found


def pre_activations(gated, scale=3.0):
    """z, what the first layers give, and a: (pre, wanted, hidden)."""
    pre, wanted = ([random(40, 12, scale=scale, seed=2 * i + j) for i in range(1 + gated)] for j in range(2))
    return pre, wanted, random(40, 12, scale=scale, seed=9)


def cost(pre, wanted, hidden, activation):
    outputs = activation(pre[0]) * (pre[1] if len(pre) == 2 else 1)
    return 2 * sum((z - goal).square() for z, goal in zip(pre, wanted, strict=True)) + 7 * (hidden - outputs).square()


@pytest.mark.parametrize("activation", [F.relu, F.silu, F.gelu])
@pytest.mark.parametrize("gated", [False, True])
def test_no_pre_activation_costs_more_than_before(activation, gated):
    pre, wanted, hidden = pre_activations(gated)
    found = updated(sparsellm(), feed_forward(activation, gated), pre, wanted, hidden)
    before, after = cost(pre, wanted, hidden, activation), cost(found, wanted, hidden, activation)
    assert bool((after <= before * (1 + 1e-5)).all())


@pytest.mark.parametrize("activation", [F.relu, F.silu, F.gelu])
def test_no_pre_activation_costs_more_than_what_the_first_layer_gives(activation):
    pre, wanted, hidden = pre_activations(gated=False)
    found = updated(sparsellm(activation_steps=1), feed_forward(activation), pre, wanted, hidden)
    at_wanted, after = cost(wanted, wanted, hidden, activation), cost(found, wanted, hidden, activation)
    assert bool((after <= at_wanted * (1 + 1e-5)).all())


def test_the_linear_factor_is_exact():
    pre, wanted, hidden = pre_activations(gated=True)
    gate, up = updated(sparsellm(), feed_forward(F.silu, gated=True), pre, wanted, hidden)
    slope = F.silu(gate).double()
    close(up, (2 * wanted[1] + 7 * slope * hidden) / (2 + 7 * slope.square()))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", [F.relu, F.silu, F.gelu])
def test_the_activated_factor_is_the_best_of_a_fine_grid(activation, gated):
    """From everywhere, where there is one minimum: what both terms want is near and positive."""
    best = 1 + random(40, 12).abs()
    pre = [random(40, 12, scale=3.0, seed=1), 1 + random(40, 12, scale=0.1, seed=2)][: 1 + gated]
    wanted = [best + random(40, 12, scale=0.3, seed=3), pre[-1]][: 1 + gated]
    hidden = activation(best) + random(40, 12, scale=0.3, seed=4)
    found = updated(sparsellm(activation_steps=10), feed_forward(activation, gated), pre, wanted, hidden)
    grid = torch.linspace(0, 8, 4001)[:, None, None].expand(-1, 40, 12)
    costs = cost([grid, *pre[1:]], wanted, hidden, activation)
    torch.testing.assert_close(found[0], grid[:, 0, 0][costs.argmin(0)], rtol=0, atol=0.003)


@pytest.mark.parametrize("pattern", [DENSE, HALF], ids=lambda p: p.name)
def test_rounds_equal_their_closed_forms_where_the_activation_is_the_identity(pattern):
    part, inputs = feed_forward(nn.Identity()), random(200, 8) @ random(8, 8, seed=1)
    first, last, bias = part.first[0].value_OI.clone(), part.last.value_OI.clone(), part.biases[0]
    z = hidden = inputs @ first.t() + bias
    target = hidden @ last.t()
    for _ in range(2):
        last = least_squares(hidden, target, pattern)
        hidden = torch.linalg.solve(2 * last.t() @ last + 7 * torch.eye(12), 2 * target @ last + 7 * z, left=False)
        z = (2 * (inputs @ first.t() + bias) + 7 * hidden) / 9
        first = least_squares(inputs, z - bias, pattern)
    last = least_squares(inputs @ first.t() + bias, target, pattern)

    sparsellm(iterations=2)._prune_feed_forward(part, inputs, patterns(part, pattern))
    close(part.first[0].value_OI, first)
    close(part.last.value_OI, last)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize(("family", "names"), [("llama", ["gate", "up", "down"]), ("opt", ["fc1", "fc2"])])
def test_the_last_layer_is_fitted_to_what_the_pruned_first_layers_give(family, names, block, windows):
    pruned, dense = random_model(family), random_model(family)
    layers, layers_before = feed_forward_layers(pruned, block, names), feed_forward_layers(dense, block, names)
    for layer, before in zip(layers, layers_before, strict=True):
        if layer.bias is not None:
            layer.bias.data = random(*layer.bias.shape)
            before.bias.data = layer.bias.data.clone()
    given = {name: DENSE if names[-1] in name else HALF for name in prunable_weights(pruned)}
    prune_blocks(pruned, weights_by_block(pruned), sparsellm(iterations=2), given, windows[:8])

    found = []
    layers[0].register_forward_pre_hook(lambda module, args: found.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        pruned(windows[:8].long())
        target = activations(layers_before[:-1], found[0]) @ layers_before[-1].weight.t()
        close(layers[-1].weight, least_squares(activations(layers[:-1], found[0]), target))


def feed_forward_layers(model, block, names):
    layers = {name: weight.module for name, weight in prunable_weights(model).items() if f"layers.{block}." in name}
    return [next(module for key, module in layers.items() if name in key) for name in names]


def activations(first, inputs):
    return F.relu(first[0](inputs)) if len(first) == 1 else F.silu(first[0](inputs)) * first[1](inputs)
