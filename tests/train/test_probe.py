"""Probes measure a run and leave no trace in it."""

import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from elsa.admm.penalty import Auto, Constant
from elsa.checkpoint.resume import RunCheckpoints
from elsa.errors import UserError
from elsa.model.weights import prunable_weights
from elsa.train.loss import direct, next_token_loss
from elsa.train.probe import due, losses_on
from tests import conftest
from tests.admm.test_faults import one_layer, set_second_moment
from tests.conftest import random_model
from tests.method.methods import METHODS, PRECISION, TRAINING
from tests.method.test_contract import PATTERNS, task
from tests.train.building import admm_on, optimizer_of, run_loop


def test_a_probe_is_due_at_the_first_report_at_or_after_each_multiple():
    assert [step for step in range(1, 41) if due(step, 10, 4)] == [12, 20, 32, 40]
    assert [step for step in range(1, 9) if due(step, 3, 1)] == [3, 6]
    assert not any(due(step, 0, 4) for step in range(1, 41))


def trained(windows, method="elsa", family="llama", **changes):
    torch.manual_seed(0)
    model = random_model(family)
    given, logged = task(windows, PATTERNS["70 %"])
    training = dataclasses.replace(TRAINING, steps=8, batch_size=2)
    METHODS[method].apply(model, dataclasses.replace(given, training=training, **changes))
    return model.state_dict(), dict(logged)


def loss_on(model, windows):
    return float(losses_on(model, direct(model), windows.long().chunk(2), nullcontext()).mean())


def test_the_loss_of_a_probe_is_that_without_dropout_and_training_goes_on_with_it(windows, monkeypatch):
    monkeypatch.setattr(conftest.CONFIGS["opt"], "dropout", 0.5)
    model = random_model("opt")
    with torch.no_grad():
        expected = [float(next_token_loss(model, part.long())) for part in windows[:8].chunk(2)]
    assert loss_on(model.train(), windows[:8]) == pytest.approx(sum(expected) / 2)
    assert model.training


def test_a_probe_weighs_parts_by_their_scored_tokens(windows):
    marked = windows.clone()
    marked[-2, 2:] = -1 - marked[-2, 2:]
    model = random_model("llama")
    training = dataclasses.replace(TRAINING, steps=1, batch_size=2, accumulation=2, autocast="none")
    logged = run_loop(model, marked[-2:], training=training, probe_every=1)
    with torch.no_grad():
        assert logged[0][1]["probe_loss"] == pytest.approx(float(next_token_loss(model, marked[-2:].long())))


@pytest.mark.parametrize("precision", [PRECISION, dataclasses.replace(PRECISION, gradient_release=True)])
def test_a_probed_run_ends_with_the_very_weights_of_one_without_probes(windows, monkeypatch, precision):
    monkeypatch.setattr(conftest.CONFIGS["opt"], "dropout", 0.3)
    expected, unprobed = trained(windows, family="opt", precision=precision)
    result, probed = trained(windows, family="opt", precision=precision, probe_every=4)
    assert all(torch.equal(result[key], expected[key]) for key in expected)
    new = {"probe_loss", "probe_loss_sparse", "dual_residual", "stationarity"}
    assert {step: set(metrics) - set(unprobed[step]) for step, metrics in probed.items()} == {
        step: new if step % 4 == 0 else set() for step in unprobed
    }
    assert all(math.isfinite(value) for metrics in probed.values() for value in metrics.values())


def test_masked_fine_tuning_has_no_other_copy_to_measure(windows):
    _, logged = trained(windows, method="finetuned", probe_every=8)
    assert "probe_loss" in logged[8]
    assert "probe_loss_sparse" not in logged[8]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_inside_the_model_computes_with_the_sparse_copy_and_then_with_its_own_weights_again(windows, family):
    model = random_model(family)
    weights = prunable_weights(model)
    admm = admm_on(model, optimizer_of(model))
    before = {name: weight.value_OI.clone() for name, weight in weights.items()}
    dense = loss_on(model, windows[:4])
    with admm.sparse():
        sparse = loss_on(model, windows[:4])
    assert all(torch.equal(weight.value_OI, before[name]) for name, weight in weights.items())
    assert loss_on(model, windows[:4]) == dense
    admm.finish()
    with torch.no_grad():
        assert sparse == pytest.approx(float(next_token_loss(model, windows[:4].long())))
    assert sparse != pytest.approx(dense)


def test_a_layer_that_fails_has_its_own_weight_back():
    layer = nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    admm = admm_on(layer, optimizer_of(layer))
    with admm.sparse(), pytest.raises(RuntimeError):
        layer(torch.ones(3))
    assert torch.equal(layer.weight, before)


def test_residuals_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    admm = admm_on(layer, optimizer_of(layer), penalty=Constant(value=0.5), interval=1, probe_every=1)
    layer.weight.grad = torch.tensor([[-2.0, 0.0, 0.0, 1.0]])  # x − ∇f/λ = 5, 2, 3, 2, whose projection is 5, 0, 3, 0
    admm.on_gradient("weight")
    layer.weight.data = torch.tensor([[5.0, 2.0, 3.0, 4.0]])  # z goes from 0, 0, 3, 4 to 5, 0, 0, 4
    metrics = admm.after_step(1)
    assert metrics["stationarity"] == pytest.approx(math.sqrt((16 + 4 + 0 + 16) / (25 + 4 + 9 + 16)))
    assert metrics["dual_residual"] == pytest.approx(math.sqrt((25 + 9) / (25 + 16)))


def test_beside_adam_stationarity_is_measured_in_adams_norm():
    layer, optimizer, admm = one_layer(
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]), interval=1, probe_every=1, penalty=Auto(contraction=3.0)
    )
    scale = torch.tensor([[4.0, 1.0, 1.0, 1.0]])
    set_second_moment(optimizer, scale.square())
    layer.weight.grad = admm.penalty * scale * torch.tensor([[-1.0, 0.0, 0.0, -1.0]])
    # x − D⁻¹∇f/λ = 2, 2, 3, 5; to zero them costs 16, 4, 9, 25, so that the projection is 2, 0, 0, 5
    admm.on_gradient("weight")
    metrics = admm.after_step(1)
    assert metrics["stationarity"] * float(layer.weight.data.norm()) == pytest.approx(math.sqrt(1 + 4 + 9 + 1))


@pytest.mark.parametrize("method", ["elsa", "finetuned"])
def test_divergence_stops_the_run_and_the_last_state_is_a_good_one(tmp_path, windows, method):
    kept = RunCheckpoints(tmp_path, 0, 2, dict)
    given, _ = task(windows, PATTERNS["70 %"])
    training = dataclasses.replace(TRAINING, steps=8, batch_size=2, learning_rate=1e38)
    with pytest.raises(UserError, match=r"learning_rate=1e\+38: training diverged by step 1 .*no state was saved"):
        METHODS[method].apply(random_model("llama"), dataclasses.replace(given, training=training, checkpoints=kept))
    assert kept.step() == 0
