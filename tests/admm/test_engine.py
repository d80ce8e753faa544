"""The schedule `Auto`, where λ acts beside the optimiser, and what tames the dual."""

import math
from types import SimpleNamespace

import pytest
import torch

from elsa.admm.penalty import Auto
from elsa.admm.state import Dual
from tests.admm.test_faults import one_layer

WEIGHT = torch.tensor([[1.0, 2.0, 3.0, 4.0]])


@pytest.mark.parametrize("steps", [20, 200])
def test_without_a_loss_or_a_dual_the_weights_off_the_support_shrink_as_planned(steps):
    layer, _, admm = one_layer(WEIGHT, penalty=Auto(contraction=3.0), steps=steps, dual=Dual(retention=0.0))
    for step in range(1, steps + 1):
        layer.weight.grad = torch.zeros_like(WEIGHT)
        admm.on_gradient("weight")
        assert not layer.weight.grad.any()  # no gradient scale decides how hard x is pulled
        admm.after_step(step)
    expected = torch.tensor([[math.exp(-3), 2 * math.exp(-3), 3.0, 4.0]])
    assert torch.allclose(layer.weight, expected, rtol=3 * 2 / steps)


def test_the_dual_keeps_its_force_when_the_learning_rate_falls():
    halving = SimpleNamespace(learning_rate_at=lambda step: 0.5**step)
    _, _, admm = one_layer(WEIGHT, penalty=Auto(contraction=3.0), steps=20, training=halving)
    before, state = admm.penalty, admm._states["weight"]
    for step in range(1, 11):
        admm.after_step(step)
    at_update = torch.where(state.mask(), 0, -state.difference())
    assert admm.penalty == pytest.approx(before * 2 * 2**10)  # the share doubles, the rate is 2^-10 of what it was
    contracted = math.exp(-sum(admm._schedule.at(step / 20) / 20 for step in range(1, 11)))
    expected = torch.tensor([[1.0, 2.0, 0.0, 0.0]]) * contracted * before
    assert torch.allclose(at_update * admm.penalty, expected)


def dual_of(admm):
    state = admm._states["weight"]
    return torch.where(state.mask(), 0, -state.difference())


def test_a_delayed_dual_is_a_penalty_until_its_first_update():
    layer, _, admm = one_layer(WEIGHT, dual_from=20)
    admm.after_step(10)
    assert not dual_of(admm).any()
    admm.after_step(20)
    assert torch.equal(dual_of(admm), layer.weight * torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


def test_a_limited_dual_asks_for_no_more_than_the_optimiser_can_do_until_the_next_update():
    even = SimpleNamespace(learning_rate_at=lambda step: 0.01, travel=lambda first, last: 0.01 * (last - first))
    _, _, admm = one_layer(WEIGHT, dual_limit=2.0, training=even)
    admm.after_step(90)
    assert dual_of(admm).tolist() == [[pytest.approx(0.2), pytest.approx(0.2), 0.0, 0.0]]
    admm.after_step(100)
    assert not dual_of(admm).any()


def test_distances_by_hand():
    layer, _, admm = one_layer(WEIGHT)  # z is 0, 0, 3, 4
    layer.weight.data = torch.tensor([[1.0, 2.0, 5.0, 4.0]])
    assert admm.distances().metrics() == {
        "relative_residual": pytest.approx(math.sqrt((1 + 4 + 4) / (9 + 16))),
        "off_support_energy": pytest.approx((1 + 4) / (1 + 4 + 25 + 16)),
        "off_support_rms": pytest.approx(math.sqrt((1 + 4) / 2)),
    }
