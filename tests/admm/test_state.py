"""The merged state against ADMM written with two tensors, bit for bit."""

import dataclasses

import pytest
import torch

from elsa.admm.penalty import Constant, Cosine
from elsa.admm.state import Dual, MergedState, SeparateState, start_state
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project
from tests.method.methods import PRECISION

STEPS, INTERVAL = 200, 4


class TwoTensors:
    """z and u as the paper writes them."""

    def __init__(self, weight, pattern):
        self.z, self.u = project(weight, pattern), torch.zeros_like(weight)

    def add_proximal_gradient(self, gradient, weight, penalty):
        gradient.add_(weight - self.z + self.u, alpha=penalty)

    def update(self, weight, pattern, importance):
        target = weight + self.u
        self.z = project(target, pattern, importance)
        self.u = target - self.z

    def rescale_dual(self, factor):
        self.u = self.u * factor


@pytest.mark.parametrize("weighted", [False, True], ids=["euclidean", "objective_aware"])
@pytest.mark.parametrize("penalty", [Constant(value=0.05), Cosine(start=0.0, end=0.1)], ids=["constant", "cosine"])
@pytest.mark.parametrize(
    "pattern", [Pattern(pattern="unstructured", ratio=0.8), Pattern(pattern="2:4", ratio=None)], ids=["80 %", "2:4"]
)
def test_merged_state_equals_two_tensors_bit_for_bit(weighted, penalty, pattern):
    generator = torch.Generator().manual_seed(0)
    start, goal = torch.randn(2, 100, 200, generator=generator)
    curvature = torch.rand(100, 200, generator=generator) + 0.1
    weights, moments = [start.clone(), start.clone()], [torch.zeros_like(start), torch.zeros_like(start)]
    states = [MergedState(start, pattern), TwoTensors(start, pattern)]
    current = penalty.at(INTERVAL / STEPS)
    supports = set()
    for step in range(1, STEPS + 1):
        for i, state in enumerate(states):
            gradient = curvature * (weights[i] - goal)
            state.add_proximal_gradient(gradient, weights[i], current)
            moments[i] = 0.95 * moments[i] + 0.05 * gradient.square()
            weights[i] = weights[i] - 0.05 * gradient / (moments[i].sqrt() + 1e-8)
            if step % INTERVAL == 0:
                state.update(weights[i], pattern, moments[i] if weighted else None)
        if step % INTERVAL == 0:
            following = penalty.at(min(1.0, (step + INTERVAL) / STEPS))
            for state in states:
                state.rescale_dual(current / following)
            current = following
        merged, two = states
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(merged.difference(), two.z - two.u)
        assert torch.equal(merged.sparse(), two.z)
        assert torch.equal(-merged.difference() * ~merged.mask(), two.u)
        supports.add(tuple(merged.mask().flatten().nonzero().flatten().tolist()))
    assert len(supports) > 10  # the mask moved: the equality was put to the test


def test_a_flip_of_the_mask_is_counted():
    pattern = Pattern(pattern="unstructured", ratio=0.5)
    state = MergedState(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), pattern)
    assert state.update(torch.tensor([[9.0, 2.0, 3.0, 4.0]]), pattern) == 2


def test_residual_is_measured_against_the_sparse_copy():
    state = MergedState(torch.tensor([[3.0, 1.0]]), Pattern(pattern="unstructured", ratio=0.5))
    residual, sparse = state.residual_squared(torch.tensor([[5.0, 1.0]]))
    assert (float(residual), float(sparse)) == (5.0, 9.0)


@pytest.mark.parametrize(
    ("retention", "step", "bound"), [(0.0, 1, None), (0.7, 1, None), (1, 0.5, None), (1, 1, 0.1), (0.7, 0.25, 0.3)]
)
def test_every_dual_keeps_the_merged_form_exact(retention, step, bound):
    generator = torch.Generator().manual_seed(0)
    pattern, weight = Pattern(pattern="unstructured", ratio=0.8), torch.randn(20, 30, generator=generator)
    merged, separate = MergedState(weight, pattern), SeparateState(weight, pattern, "float32", "float32")
    sparse, dual, came = project(weight, pattern), torch.zeros_like(weight), 0
    for _ in range(20):
        weight = weight + 0.1 * torch.randn(20, 30, generator=generator)
        for state in (merged, separate):
            state.update(weight, pattern, dual=Dual(retention, step, bound))
        before, target = sparse, weight + dual
        sparse = project(target, pattern)
        dual = retention * (target - sparse - (1 - step) * weight * (sparse == 0))
        dual = dual if bound is None else dual.clamp(-bound, bound)
        for state in (merged, separate):
            assert torch.equal(state.difference(), sparse - dual)
            assert torch.equal(state.mask(), sparse != 0)
        came += int(((before == 0) & (sparse != 0)).sum())
    assert came  # entries that had a dual have come to the support


@pytest.mark.parametrize(("kept_as", "dual"), [("float32", None), ("float32", "float32"), ("float8", "float32")])
def test_rescaling_multiplies_u_and_leaves_z_alone(kept_as, dual):
    generator = torch.Generator().manual_seed(0)
    pattern, weight = Pattern(pattern="unstructured", ratio=0.8), torch.randn(20, 30, generator=generator)
    state = start_state(weight, pattern, dataclasses.replace(PRECISION, state=kept_as, dual=dual))
    state.update(weight + 0.1 * torch.randn(20, 30, generator=generator), pattern)
    sparse, difference = state.sparse().clone(), state.difference().clone()
    state.rescale_dual(0.25)
    assert torch.equal(state.sparse(), sparse)
    torch.testing.assert_close(sparse - state.difference(), 0.25 * (sparse - difference), rtol=1e-5, atol=1e-6)


def test_the_first_support_can_be_given():
    kept = torch.tensor([[True, False]])
    state = MergedState(torch.tensor([[1.0, 5.0]]), Pattern(pattern="unstructured", ratio=0.5), support=kept)
    assert state.sparse().tolist() == [[1.0, 0.0]]
